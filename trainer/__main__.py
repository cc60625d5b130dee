"""``deepspeed --module trainer COMMAND`` or ``python -m trainer COMMAND``: shards to models."""

from data_prep.contract.cli import Command, begin_process, leave, main

COMMANDS = {
    "contrastive": Command(
        config="trainer.tasks.contrastive.config:ContrastiveConfig",
        run="trainer.run:contrastive",
        help="align EEG with image embeddings",
    ),
    "encoding": Command(
        config="trainer.tasks.encoding.config:EncodingConfig",
        run="trainer.run:encoding",
        help="fit EEG from image embeddings in closed form",
    ),
    "text": Command(
        config="trainer.tasks.text.config:TextConfig",
        run="trainer.run:text",
        help="tune a language model to caption from EEG",
    ),
    "export": Command(
        config="trainer.artifacts.command:ExportConfig",
        run="trainer.artifacts.command:run",
        help="write a run's best encoder where you like",
    ),
    "verify": Command(
        config="trainer.training.verify:VerifyConfig",
        run="trainer.training.verify:run",
        help="check every hash of a run or an export",
    ),
    "evaluate-retrieval": Command(
        config="trainer.evaluate.retrieval.config:EvaluateRetrievalConfig",
        run="trainer.evaluate.retrieval.command:run",
        help="score an encoder on a split's test part",
    ),
    "evaluate-classes": Command(
        config="trainer.evaluate.classes.config:EvaluateClassesConfig",
        run="trainer.evaluate.classes.command:run",
        help="score how an encoder names the concept of each trial",
    ),
    "evaluate-text": Command(
        config="trainer.evaluate.text.config:EvaluateTextConfig",
        run="trainer.evaluate.text.command:run",
        help="score generated captions and say what EEG adds over its controls",
    ),
    "export-embeddings": Command(
        config="trainer.evaluate.export_embeddings:ExportEmbeddingsConfig",
        run="trainer.evaluate.export_embeddings:run",
        help="write EEG and image embeddings as .npz",
    ),
    "generate": Command(
        config="trainer.generate.config:GenerateConfig",
        run="trainer.generate.command:run",
        help="caption a part by a text model and its controls",
    ),
    "register": Command(
        config="trainer.serve.config:RegisterConfig",
        run="trainer.serve.register:run",
        help="put an encoder into the model registry",
    ),
    "serve": Command(
        config="trainer.serve.command:ServeConfig",
        run="trainer.serve.command:run",
        help="answer retrieval queries over HTTP",
    ),
}

if __name__ == "__main__":
    begin_process()
    leave(main("python -m trainer", "Shards to models: see configs/contrastive/, configs/encoding/ and configs/evaluate/.", COMMANDS))
