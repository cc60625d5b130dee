"""The launch plan is a value: what would be started where, for every target."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.contract.cli import main
from launch.__main__ import COMMANDS, one_value
from launch.clusters.kubernetes import KubernetesConfig
from launch.clusters.slurm import SlurmConfig
from launch.commands import option, resumed, without
from launch.config import LaunchConfig
from launch.hostfile import Host
from launch.plan import Meeting, Surroundings, plan, plan_of_ranks

COMMAND = ["contrastive", "--config", "x.yaml", "--run", "runs/x"]
HERE = Surroundings(
    python="python",
    folder="/lab",
    root="/code",
    environ={"HF_HUB_OFFLINE": "1", "PYTHONPATH": "/mine", "MLFLOW_TRACKING_PASSWORD": "hunter2", "HOME": "/root", "NCCL_IB_HCA": "mlx5"},
)
TOLD = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": "/code:/mine", "HF_HUB_OFFLINE": "1"}
HOSTS = (Host(name="node0", slots=2), Host(name="node1", slots=1))


def test_ranks_of_one_machine() -> None:
    (start,) = plan(LaunchConfig(num_processes=2, trainer_command=COMMAND), (Host(name="localhost", slots=2),), HERE).starts
    assert start.argv == ("python", "-u", "-m", "trainer", *COMMAND)
    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "FREE-PORT"}
    assert (start.environment, start.passed_on) == ({**TOLD, **where}, {})
    assert start.by_rank == ({"RANK": "0", "LOCAL_RANK": "0"}, {"RANK": "1", "LOCAL_RANK": "1"})


def test_ranks_of_a_hostfile_know_their_place_and_each_hosts_interface() -> None:
    config = LaunchConfig(hostfile="hosts", environment={"MINE": "yes"}, threads_per_process=3, trainer_command=COMMAND)
    meeting = Meeting(address="10.0.0.10", port=20123, interfaces={"node0": "eth0", "node1": "ens5"})
    first, second = plan_of_ranks(config, HOSTS, HERE, meeting).starts
    assert [start.host for start in (first, second)] == ["node0", "node1"]
    assert [own["RANK"] for own in (*first.by_rank, *second.by_rank)] == ["0", "1", "2"]
    assert second.by_rank == ({"RANK": "2", "LOCAL_RANK": "0"},)
    shared = {**TOLD, "OMP_NUM_THREADS": "3", "MINE": "yes", "WORLD_SIZE": "3", "MASTER_ADDR": "10.0.0.10", "MASTER_PORT": "20123"}
    for start, slots, interface in ((first, "2", "eth0"), (second, "1", "ens5")):
        names = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        assert start.environment == {**shared, "LOCAL_WORLD_SIZE": slots, **names}
        assert start.passed_on["MLFLOW_TRACKING_PASSWORD"] == "hunter2"
        assert start.passed_on["NCCL_IB_HCA"] == "mlx5"
        assert "HOME" not in start.passed_on
    chosen = plan_of_ranks(LaunchConfig(hostfile="hosts", interface="ib0", trainer_command=COMMAND), HOSTS, HERE, meeting).starts[1]
    assert chosen.environment["GLOO_SOCKET_IFNAME"] == chosen.environment["NCCL_SOCKET_IFNAME"] == "ib0"


def test_a_printed_plan_shows_no_password() -> None:
    said = str(plan(LaunchConfig(hostfile="hosts", trainer_command=COMMAND), HOSTS, HERE))
    assert "hunter2" not in said
    assert "# as here: MLFLOW_TRACKING_PASSWORD NCCL_IB_HCA" in said
    assert "MASTER_ADDR=ADDRESS-OF-node0 MASTER_PORT=FREE-PORT RANK=2 LOCAL_RANK=0 python -u -m trainer contrastive" in said


def test_a_run_that_is_restarted_goes_on_with_what_there_is() -> None:
    assert resumed(COMMAND, holds_a_run=False) == (*COMMAND, "--resume", "auto")
    other = [*COMMAND, "--resume", "runs/other", "--train.steps=5"]
    assert resumed(other, holds_a_run=False) == tuple(other)
    assert resumed(other, holds_a_run=True) == (*COMMAND, "--train.steps=5", "--resume", "auto")
    assert without(["--run=a", "x", "--run", "b"], "--run") == ("x",)
    assert option(["--run", "a", "--run=b"], "--run") == "b"
    assert resumed(["generate", "--config", "g.yaml"], holds_a_run=False) == ("generate", "--config", "g.yaml")
    kept = plan(LaunchConfig(hostfile="hosts", trainer_command=COMMAND), HOSTS, HERE).starts[0].argv
    restarted = plan(LaunchConfig(hostfile="hosts", max_restarts=1, trainer_command=COMMAND), HOSTS, HERE).starts[0].argv
    assert restarted == (*kept, "--resume", "auto")


def test_deepspeeds_own_launchers() -> None:
    (start,) = plan(LaunchConfig(target="deepspeed", num_processes=2, master_port=4000, trainer_command=COMMAND), (), HERE).starts
    ranks = base64.urlsafe_b64encode(b'{"localhost": [0, 1]}').decode()
    launcher = ("deepspeed.launcher.launch", f"--world_info={ranks}", "--master_addr=127.0.0.1", "--master_port=4000")
    assert start.argv == ("python", "-m", *launcher, "--module", "trainer", *COMMAND)
    config = LaunchConfig(target="deepspeed", hostfile="hosts", master_port=4000, interface="eth0", trainer_command=COMMAND)
    planned = plan(config, HOSTS, HERE)
    assert planned.starts[0].argv[2:8] == ("deepspeed.launcher.runner", "--quiet", "--hostfile", "hosts", "--master_port", "4000")
    carried = dict(line.split("=", 1) for line in planned.files["deepspeed_env"].splitlines())
    assert carried == {**TOLD, "GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}


def test_torchrun_on_one_machine_and_on_several() -> None:
    (alone,) = plan(LaunchConfig(target="torchrun", num_processes=2, trainer_command=COMMAND), (), HERE).starts
    end = ("-m", "--", "trainer", *COMMAND)
    assert alone.argv[1:] == (
        *("-m", "torch.distributed.run", "--standalone", "--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "0"),
        *end,
    )
    alike = (Host(name="a", slots=4), Host(name="b", slots=4))
    starts = plan(LaunchConfig(target="torchrun", hostfile="hosts", max_restarts=3, trainer_command=COMMAND), alike, HERE).starts
    elastic = ("--nnodes", "1:2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "a:29500", "--rdzv-id", "x")
    assert starts[0].argv[3:] == (*elastic, "--nproc-per-node", "4", "--max-restarts", "3", *end, "--resume", "auto")
    assert [start.host for start in starts] == ["a", "b"]
    assert all(start.argv == starts[0].argv and start.environment == TOLD for start in starts)
    with pytest.raises(ValueError, match="hosts have 1, 2 slots"):
        plan(LaunchConfig(target="torchrun", hostfile="hosts", trainer_command=COMMAND), HOSTS, HERE)


def test_a_slurm_job_saves_before_its_time_is_up_and_queues_again(tmp_path: Path) -> None:
    slurm = SlurmConfig(name="eeg", time="4:00:00", options=["--partition=gpu"], setup=["module load cuda"])
    config = LaunchConfig(target="slurm", nodes=2, num_processes=4, accelerator="cuda", slurm=slurm, trainer_command=COMMAND)
    planned = plan(config, (), HERE)
    assert planned.starts[0].argv == ("sbatch", "eeg.sbatch")
    script = planned.files["eeg.sbatch"]
    options = re.findall(r"^#SBATCH (.*)$", script, re.M)
    assert options == [
        *("--job-name=eeg", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=1", "--gpus-per-node=4", "--time=4:00:00"),
        *("--signal=USR1@90", "--requeue", "--open-mode=append", "--chdir=/lab", "--output=%x-%j.out", "--partition=gpu"),
    ]
    assert "export DS_ACCELERATOR=cuda\nexport OMP_NUM_THREADS=1\nexport PYTHONPATH=/code:/mine\n" in script
    assert "module load cuda\n" in script
    assert "srun --kill-on-bad-exit=1 python -m trainer contrastive --config x.yaml --run runs/x --resume auto\n" in script


@pytest.mark.parametrize(("status", "queued"), [(75, "requeue 7\n"), (0, ""), (1, "")])
def test_what_a_slurm_script_does_as_bash_runs_it(tmp_path: Path, status: int, queued: str) -> None:
    slurm = SlurmConfig(array_field="train.seed", array_values=[3, "it's"])
    script = plan(LaunchConfig(target="slurm", slurm=slurm, trainer_command=COMMAND), (), HERE).files["eegvision.sbatch"]
    assert "#SBATCH --array=0-1\n" in script
    for name, body in (("srun", f'printf "%s\\n" "$@" >srun.said; exit {status}'), ("scontrol", 'echo "$@" >queued')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "1", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    said = (tmp_path / "srun.said").read_text().splitlines()
    assert said == [
        *("--kill-on-bad-exit=1", "python", "-m", "trainer", "contrastive", "--config", "x.yaml", "--resume", "auto"),
        *("--train.seed", "it's", "--run", "runs/x/it's"),
    ]
    assert ((tmp_path / "queued").read_text() if (tmp_path / "queued").exists() else "") == queued


# Fields of a JobSet of v1alpha2, and of the pods and jobs in it, that we use; their types and which are needed, as the published
# CustomResourceDefinition (kubernetes-sigs/jobset) has them. "?" ends a name that may be missing.
TEXT, NUMBER, FLAG = str, int, bool
RESOURCES = {"limits": {"*": TEXT}}
CONTAINER = {
    "name": TEXT,
    "image?": TEXT,
    "workingDir?": TEXT,
    "command?": [TEXT],
    "args?": [TEXT],
    "env?": [{"name": TEXT, "value?": TEXT}],
    "ports?": [{"containerPort": NUMBER, "name?": TEXT, "protocol?": TEXT}],
    "resources?": RESOURCES,
    "volumeMounts?": [{"name": TEXT, "mountPath": TEXT, "readOnly?": FLAG, "subPath?": TEXT}],
}
VOLUME = {
    "name": TEXT,
    "persistentVolumeClaim?": {"claimName": TEXT, "readOnly?": FLAG},
    "emptyDir?": {"medium?": TEXT, "sizeLimit?": TEXT},
}
POD = {
    "containers": [CONTAINER],
    "restartPolicy?": TEXT,
    "terminationGracePeriodSeconds?": NUMBER,
    "volumes?": [VOLUME],
    "nodeSelector?": {"*": TEXT},
}
METADATA = {"name?": TEXT, "namespace?": TEXT, "labels?": {"*": TEXT}, "annotations?": {"*": TEXT}}
JOB = {
    "template": {"metadata?": METADATA, "spec?": POD},
    "parallelism?": NUMBER,
    "completions?": NUMBER,
    "completionMode?": TEXT,
    "backoffLimit?": NUMBER,
}
JOBSET = {
    "apiVersion?": TEXT,
    "kind?": TEXT,
    "metadata?": METADATA,
    "spec?": {
        "network?": {"enableDNSHostnames?": FLAG, "subdomain?": TEXT, "publishNotReadyAddresses?": FLAG},
        "failurePolicy?": {"maxRestarts?": NUMBER, "restartStrategy?": TEXT},
        "successPolicy?": {"operator": TEXT, "targetReplicatedJobs?": [TEXT]},
        "ttlSecondsAfterFinished?": NUMBER,
        "replicatedJobs?": [{"name": TEXT, "replicas?": NUMBER, "template": {"metadata?": METADATA, "spec?": JOB}}],
    },
}


def misfits(value: Any, schema: Any, where: str = "") -> list[str]:
    """What in ``value`` the schema does not know, or misses."""
    if isinstance(schema, list):
        return [f"{where}: no list"] if not isinstance(value, list) else [e for one in value for e in misfits(one, schema[0], where)]
    if not isinstance(schema, dict):
        return [] if type(value) is schema else [f"{where}: {value!r} is no {schema.__name__}"]
    if not isinstance(value, dict):
        return [f"{where}: no mapping"]
    known = {name.rstrip("?"): inner for name, inner in schema.items()}
    if "*" in known:
        return [error for name, inner in value.items() for error in misfits(inner, known["*"], f"{where}.{name}")]
    wrong = [f"{where}.{name}: unknown" for name in value.keys() - known.keys()]
    wrong += [f"{where}.{name}: missing" for name in schema if not name.endswith("?") and name not in value]
    return wrong + [error for name in value.keys() & known.keys() for error in misfits(value[name], known[name], f"{where}.{name}")]


def test_a_jobset_has_the_fields_of_the_published_schema() -> None:
    pods = KubernetesConfig(name="eeg", image="lab/eeg:1", claim="eeg", labels={"kueue.x-k8s.io/queue-name": "gpu"}, memory="64Gi")
    config = LaunchConfig(
        target="kubernetes", nodes=2, num_processes=4, accelerator="cuda", max_restarts=5, kubernetes=pods, trainer_command=COMMAND
    )
    planned = plan(config, (), HERE)
    assert planned.starts[0].argv == ("kubectl", "apply", "-f", "eeg.yaml")
    made = yaml.safe_load(planned.files["eeg.yaml"])
    assert misfits(made, JOBSET) == []
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (ranks,) = made["spec"]["replicatedJobs"]
    job = ranks["template"]["spec"]
    assert (job["completionMode"], job["parallelism"], job["completions"], job["backoffLimit"]) == ("Indexed", 2, 2, 0)
    assert made["spec"]["failurePolicy"] == {"maxRestarts": 5}
    (container,) = job["template"]["spec"]["containers"]
    shell, flag, line = container["command"]
    assert (shell, flag) == ("sh", "-c")
    first = "eeg-ranks-0-0.eeg"  # NAME-JOB-INDEX-POD.SUBDOMAIN, by which JobSet makes pods known
    assert f'--node-rank "$JOB_COMPLETION_INDEX" --master-addr {first} --master-port 29500' in line
    assert line.endswith("-m -- trainer contrastive --config x.yaml --run runs/x --resume auto")
    assert {"name": "DS_ACCELERATOR", "value": "cuda"} in container["env"]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "64Gi", "nvidia.com/gpu": "4"}
    with pytest.raises(ValueError, match=r"kubernetes\.image: empty"):
        plan(LaunchConfig(target="kubernetes", trainer_command=COMMAND), (), HERE)


def test_the_schema_of_this_test_finds_what_is_wrong() -> None:
    made = {"spec": {"replicatedJobs": [{"replica": 1, "template": {"spec": {"template": {"spec": {"containers": [{"name": 1}]}}}}}]}}
    found = misfits(made, JOBSET)
    assert len(found) == 3
    assert {error.split(": ")[1] for error in found} == {"unknown", "missing", "1 is no str"}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_processes": 0}, "num_processes: 0"),
        ({"min_nodes": 0}, "min_nodes: 0"),
        ({"max_restarts": -1}, "max_restarts: -1"),
        ({"master_port": 70000}, "master_port: 70000"),
        ({"target": "hosts"}, "hosts without a hostfile"),
        ({"target": "slurm", "hostfile": "hosts"}, "slurm has no use for a hostfile"),
        ({"environment": {"A B": "1"}}, "environment: 'A B'"),
        ({"trainer_command": ["dance"]}, "'dance' after '--'"),
    ],
)
def test_bad_launch_configs(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LaunchConfig(**fields)


def test_bad_configs_of_clusters() -> None:
    with pytest.raises(ValueError, match="array_field and array_values"):
        SlurmConfig(array_field="train.seed")
    with pytest.raises(ValueError, match=r"kubernetes\.name: 'EEG'"):
        KubernetesConfig(name="EEG")
    slurm = SlurmConfig(array_field="train.seed", array_values=[1])
    with pytest.raises(ValueError, match="the command names no run"):
        plan(LaunchConfig(target="slurm", slurm=slurm, trainer_command=COMMAND[:3]), (), HERE)


def test_nothing_to_launch_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing after '--'"):
        plan(LaunchConfig(), (Host(name="localhost", slots=1),), HERE)


def test_a_folder_that_holds_a_run_is_refused_before_ranks_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "identity.json").write_text("{}")
    train = ["contrastive", "--config", "configs/contrastive/simulated.yaml", "--run", str(run)]
    assert main("x", "", COMMANDS, one_value(["run", "--num_processes", "2", "--", *train])) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if "loading libraries" not in line]  # which a slow machine says
    assert said == [f"error: run: {run} already holds a run; continue it with --resume latest, or choose another folder"]
