"""``deepspeed --module trainer COMMAND`` or ``python -m trainer COMMAND``: shards to models."""

import sys

from data_prep.cli import Command, main

COMMANDS = {
    "contrastive": Command(
        config="trainer.tasks.contrastive:ContrastiveConfig", run="trainer.loop:run", help="align EEG with image embeddings"
    ),
    "text": Command(config="trainer.tasks.text:TextConfig", run="trainer.loop:run", help="tune a language model to caption from EEG"),
    "export": Command(config="trainer.export:ExportConfig", run="trainer.export:run", help="write a run's best encoder where you like"),
    "evaluate-retrieval": Command(
        config="trainer.evaluate.retrieval:EvaluateConfig",
        run="trainer.evaluate.retrieval:run",
        help="score an encoder on a split's test part",
    ),
    "evaluate-classes": Command(
        config="trainer.evaluate.concepts:EvaluateClassesConfig",
        run="trainer.evaluate.concepts:run",
        help="score how an encoder names the concept of each trial",
    ),
    "evaluate-text": Command(
        config="trainer.evaluate.text:EvaluateTextConfig",
        run="trainer.evaluate.text:run",
        help="score generated captions and say what EEG adds over its controls",
    ),
    "export-embeddings": Command(
        config="trainer.evaluate.embeddings:ExportEmbeddingsConfig",
        run="trainer.evaluate.embeddings:run",
        help="write EEG and image embeddings as .npz",
    ),
    "generate": Command(
        config="trainer.generate:GenerateConfig", run="trainer.generate:run", help="caption a part by a text model and its controls"
    ),
    "compare-bases": Command(
        config="trainer.compare:CompareBasesConfig", run="trainer.compare:run", help="train and score several base models alike"
    ),
    "register": Command(
        config="trainer.registry:RegisterConfig", run="trainer.registry:run", help="put an encoder into the model registry"
    ),
    "serve": Command(config="trainer.serving:ServeConfig", run="trainer.serving:run", help="answer retrieval queries over HTTP"),
}

if __name__ == "__main__":
    sys.exit(main("python -m trainer", "Shards to models: see configs/contrastive/ and configs/evaluate/.", COMMANDS))
