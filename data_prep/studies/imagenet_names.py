"""What the 40 ImageNet synsets of EEGCVPR40 show, by the first of ImageNet's own names."""

from __future__ import annotations

NAMES = {
    "n02106662": "German shepherd", "n02124075": "Egyptian cat", "n02281787": "lycaenid butterfly", "n02389026": "sorrel horse",
    "n02492035": "capuchin", "n02504458": "African elephant", "n02510455": "giant panda", "n02607072": "anemone fish",
    "n02690373": "airliner", "n02906734": "broom", "n02951358": "canoe", "n02992529": "cellular telephone", "n03063599": "coffee mug",
    "n03100240": "convertible", "n03180011": "desktop computer", "n03197337": "digital watch", "n03272010": "electric guitar",
    "n03272562": "electric locomotive", "n03297495": "espresso maker", "n03376595": "folding chair", "n03445777": "golf ball",
    "n03452741": "grand piano", "n03584829": "iron", "n03590841": "jack-o'-lantern", "n03709823": "mailbag", "n03773504": "missile",
    "n03775071": "mitten", "n03792782": "mountain bike", "n03792972": "mountain tent", "n03877472": "pajama", "n03888257": "parachute",
    "n03982430": "pool table", "n04044716": "radio telescope", "n04069434": "reflex camera", "n04086273": "revolver",
    "n04120489": "running shoe", "n07753592": "banana", "n07873807": "pizza", "n11939491": "daisy", "n13054560": "bolete",
}  # fmt: skip
"""WordNet 3.0 id of a synset -> name."""
