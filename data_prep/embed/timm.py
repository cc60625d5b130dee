"""Vision models of timm; timm and torch are imported only when something is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file
from data_prep.embed.image_encoder import LayeredConfig
from data_prep.embed.layers import FINAL, Taps
from data_prep.embed.loaded import LoadedEncoder
from data_prep.embed.transforms import in_words
from data_prep.embed.weights import fill_model, on_device, read_state, state_hash

_FOLDER = "local-dir:"
_FINAL_WORDS = "pooled features before the classifier"


@dataclass(frozen=True, kw_only=True)
class TimmConfig(LayeredConfig):
    """A model of timm, by its own inference transform."""

    model: str
    """timm model name (``vit_base_patch14_dinov2.lvd142m``), or ``local-dir:FOLDER`` of ``config.json`` and weights."""
    weights: str | None = None
    """Path of a weights file (``.safetensors`` or a state dict of torch). None: those of the folder, or the published ones, for which a hub
    must be in reach."""

    def known(self) -> dict[str, Any] | None:
        path = self._file()
        if path is None:
            return None
        import timm

        if not path.is_file():
            raise StudyError(f"{path}: no such file, expected weights of timm's {self.model}")
        settings = path.parent / "config.json"
        of_folder = sha256_file(settings) if self.model.startswith(_FOLDER) and settings.is_file() else None
        names = {"model": self._name(), "settings": of_folder, "timm": str(timm.__version__)}
        return {**names, "weights_sha256": sha256_file(path), **self.known_layers()}

    def load(self, device: str | None = None) -> LoadedEncoder:
        import timm
        from timm.data import create_transform, resolve_model_data_config

        path = self._file()
        try:
            model = timm.create_model(self.model, pretrained=path is None)
        except Exception as error:  # timm, torch and the hub client raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise StudyError(
                f"timm model {self.model!r} cannot be loaded ({reason}); give the path of a weights file where no model hub is in reach"
            ) from error
        if path is not None:
            classifier = model.default_cfg.get("classifier") or ()
            unused = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            fill_model(model, read_state(path), path, may_lack=unused)
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        target = on_device(model, device or self.device)
        taps = Taps(model, self.taps, f"timm's {self.model}")

        def encode(images_BCHW: Any) -> list[Any]:
            images = images_BCHW.to(target)

            def final() -> Any:
                return model.forward_head(model.forward_features(images), pre_logits=True).float()

            return self.tables_of(taps.read(final, (images.shape[2], images.shape[3]), len(images)))

        return LoadedEncoder(
            transform=transform,
            encode=encode,
            provenance={
                "model": self._name(),
                "weights_sha256": sha256_file(path) if path is not None else state_hash(model),
                "transform": in_words(transform),
            },
            words=tuple(words.replace(FINAL, _FINAL_WORDS) for words in self.words()),
        )

    def _name(self) -> str:
        return f"timm {Path(self.model.removeprefix(_FOLDER)).name if self.model.startswith(_FOLDER) else self.model}"

    def _file(self) -> Path | None:
        if self.weights is not None:
            return Path(self.weights)
        if not self.model.startswith(_FOLDER):
            return None
        folder = Path(self.model.removeprefix(_FOLDER))
        names = ("model.safetensors", "pytorch_model.bin")
        return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
