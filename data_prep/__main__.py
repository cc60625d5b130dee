"""``python -m data_prep COMMAND``: recordings to shards, splits and embeddings."""

from data_prep.contract.cli import Command, begin_process, leave, main

COMMANDS = {
    "simulate": Command(
        config="data_prep.simulate.study:SimulateConfig",
        run="data_prep.simulate.study:run",
        help="make a study with a known ceiling",
    ),
    "shard": Command(
        config="data_prep.shards.write:ShardConfig",
        run="data_prep.shards.write:run",
        help="write a study's trials and embeddings as shards",
    ),
    "split": Command(
        config="data_prep.splits.config:SplitConfig",
        run="data_prep.splits.split:run",
        help="divide a study into train, validation and test",
    ),
    "embed": Command(
        config="data_prep.embed.command:EmbedConfig",
        run="data_prep.embed.command:run",
        help="add an image embedding to a study",
    ),
    "verify": Command(
        config="data_prep.shards.verify:VerifyConfig",
        run="data_prep.shards.verify:run",
        help="check every size, hash and offset of a study",
    ),
    "inspect": Command(
        config="data_prep.shards.inspect:InspectConfig",
        run="data_prep.shards.inspect:run",
        help="show what is in a study",
        prints=True,
    ),
    "audit": Command(
        config="data_prep.splits.audit:AuditConfig",
        run="data_prep.splits.audit:run",
        help="say what a split can and cannot show",
    ),
    "index": Command(
        config="data_prep.shards.reindex:ReindexConfig",
        run="data_prep.shards.reindex:run",
        help="rebuild index and trials tables from the tars",
    ),
}

if __name__ == "__main__":
    begin_process()
    leave(main("python -m data_prep", "Recordings to shards: see configs/data_prep/.", COMMANDS))
