"""Several tasks of SLURM or MPI are one run, or they are refused: never as many runs of one rank."""

from __future__ import annotations

import pytest

from data_prep.contract.errors import UserError
from trainer.distributed.schedulers import first_host, launcher_variables, tasks_per_node
from trainer.distributed.world import World, read_world

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "7",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}
PLACES = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def task(rank: int) -> dict[str, str]:
    node, local = PLACES[rank]
    return STEP | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}


def test_the_tasks_of_srun_are_the_ranks_of_one_run() -> None:
    for rank, (node, local) in enumerate(PLACES):
        assert read_world(task(rank)) == World(rank=rank, size=7, local_rank=local, local_size=1 if node == 3 else 2)
    meeting = {(found["MASTER_ADDR"], found["MASTER_PORT"]) for found in map(launcher_variables, map(task, range(7)))}
    assert len(meeting) == 1
    ((host, port),) = meeting
    assert host == "gpu07"
    assert 1024 < int(port) < 32_768
    second = launcher_variables(task(0) | {"SLURM_STEP_ID": "1"})
    assert second["MASTER_PORT"] != port


def test_what_a_launcher_says_goes_before_what_a_scheduler_says() -> None:
    inside = task(3) | {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert launcher_variables(inside) == {}
    assert read_world(inside) == World(rank=1, local_rank=1, size=2, local_size=2)
    assert launcher_variables(task(0) | {"MASTER_ADDR": "here", "MASTER_PORT": "99"})["MASTER_ADDR"] == "here"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
    ],
)
def test_one_task_is_a_run_alone(environ: dict[str, str]) -> None:
    assert read_world(environ) == World()


MPI = [
    {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
    {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
    {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"},
]


@pytest.mark.parametrize("environ", MPI)
def test_the_tasks_of_mpirun_are_ranks_where_they_know_where_to_meet(environ: dict[str, str]) -> None:
    meeting = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
    assert read_world(environ | meeting) == World(rank=3, local_rank=1, size=4, local_size=2)
    for name in meeting:
        with pytest.raises(UserError, match=f"is 4, but {name} is missing: set MASTER_ADDR"):
            read_world(environ | {key: value for key, value in meeting.items() if key != name})
    for name in environ:
        if not name.endswith("SIZE") and "LOCALN" not in name:
            with pytest.raises(UserError, match="is missing"):
                read_world({key: value for key, value in (environ | meeting).items() if key != name})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"SLURM_PROCID": ""}, "SLURM_PROCID is missing"),
        ({"SLURM_LOCALID": ""}, "SLURM_LOCALID is missing"),
        ({"SLURM_STEP_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE is missing"),
        ({"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is missing"),
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, "tasks a node are 'two'"),
        ({"SLURM_NODEID": "9"}, "SLURM_NODEID is 9, but the tasks are on 4 nodes"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS is 'many' in the environment, expected an integer"),
        ({"SLURM_PROCID": "7"}, "RANK is 7, expected 0 to 6"),
    ],
)
def test_tasks_that_cannot_be_placed_are_refused(change: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_world(task(0) | change)


def test_one_process_in_a_batch_script_of_several_tasks_is_told_of_srun() -> None:
    batch = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    with pytest.raises(UserError, match="SLURM gave this job 4 tasks, and this is one process without srun: start it as `srun python -m"):
        read_world(batch)


def test_slurms_short_forms() -> None:
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert tasks_per_node("8") == [8]
    names = {"node[03-05,9]": "node03", "a1,b2": "a1", "login": "login", "rack[1-2]-gpu,x": "rack1-gpu", "c[10]": "c10"}
    assert {text: first_host(text) for text in names} == names
