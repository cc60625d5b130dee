"""``python -m data_prep COMMAND``: recordings to shards, splits and embeddings."""

import sys

from data_prep.cli import Command, main

COMMANDS = {
    "simulate": Command(
        config="data_prep.simulate.study:SimulateConfig", run="data_prep.simulate.study:run", help="make a study with a known ceiling"
    ),
    "shard": Command(
        config="data_prep.shards:ShardConfig", run="data_prep.shards:run", help="write a study's trials and embeddings as shards"
    ),
    "split": Command(
        config="data_prep.splits:SplitConfig", run="data_prep.splits:run", help="divide a study into train, validation and test"
    ),
    "embed": Command(config="data_prep.embeddings:EmbedConfig", run="data_prep.embeddings:run", help="add an image embedding to a study"),
    "verify": Command(
        config="data_prep.verify:VerifyConfig", run="data_prep.verify:run", help="check every size, hash and offset of a study"
    ),
    "inspect": Command(config="data_prep.inspect:InspectConfig", run="data_prep.inspect:run", help="show what is in a study"),
    "audit": Command(config="data_prep.audit:AuditConfig", run="data_prep.audit:run", help="say what a split can and cannot show"),
    "index": Command(
        config="data_prep.reindex:ReindexConfig", run="data_prep.reindex:run", help="rebuild index and trials tables from the tars"
    ),
}

if __name__ == "__main__":
    sys.exit(main("python -m data_prep", "Recordings to shards: see configs/data_prep/.", COMMANDS))
