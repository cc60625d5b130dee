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
    "check": Command(
        config="data_prep.shards.write:ShardConfig",
        run="data_prep.shards.check:run",
        help="measure a study as shard does, and say what it would refuse",
        prints=True,
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
        config="data_prep.inspection.command:InspectConfig",
        run="data_prep.inspection.command:run",
        help="show what is in a study: tables here, responses and images on a page",
        prints=True,
    ),
    "audit": Command(
        config="data_prep.splits.audit:AuditConfig",
        run="data_prep.splits.audit:run",
        help="say what a split can and cannot show",
    ),
    "fetch": Command(
        config="data_prep.fetch.command:FetchConfig",
        run="data_prep.fetch.command:run",
        help="bring a published study here, resumed and checked: fetch STUDY, fetch --list",
        prints=True,
        first="study",
        switches=("list", "unpack"),
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
