"""Kubernetes: a JobSet (``jobset.x-k8s.io``), one indexed job whose pods are the machines. One pod lost restarts all, and they go on."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

import yaml

from data_prep.contract.errors import UserError
from launch.clusters.job import Job
from launch.commands import going_on

PORT = 29500
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_ROLE = "ranks"


@dataclass(frozen=True, kw_only=True)
class KubernetesConfig:
    """What the pods are made of."""

    name: str = "eegvision"
    """Name of the JobSet: lower-case letters, digits and dashes, at most 40, as it is part of host names."""
    namespace: str = ""
    """Empty: that of the one who applies it."""
    image: str = ""
    """Container image that has this project installed; needed."""
    claim: str = ""
    """PersistentVolumeClaim (ReadWriteMany) that holds studies and runs, which all pods share; needed."""
    mount: str = "/data"
    """Where the claim is mounted; the command's relative paths begin there."""
    memory: str = ""
    """Memory of a pod, such as ``64Gi``; empty: no limit."""
    shared_memory: str = "8Gi"
    """``/dev/shm`` of a pod, by which ranks on one machine talk."""
    python: str = "python"
    """Interpreter in the image."""
    labels: dict[str, str] = field(default_factory=dict)
    """Further labels of the pods, such as that of a queue."""

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"kubernetes.name: {self.name!r}, expected lower-case letters, digits and dashes, at most 40, a letter first")


def manifest(job: Job, config: KubernetesConfig) -> str:
    """The JobSet as YAML, for ``kubectl apply -f``.

    Raises
    ------
    UserError
        The config names no image or no claim.
    """
    for name in ("image", "claim"):
        if not getattr(config, name):
            raise UserError(f"kubernetes.{name}: empty, expected what the pods are made of")
    return yaml.safe_dump(jobset(job, config), sort_keys=False, width=140)


def jobset(job: Job, config: KubernetesConfig) -> dict[str, Any]:
    """The JobSet as plain values."""
    first = f"{config.name}-{_ROLE}-0-0.{config.name}"
    launcher = [config.python, "-m", "torch.distributed.run", "--nnodes", str(job.nodes), "--nproc-per-node", str(job.ranks_per_node)]
    meeting = f'--node-rank "$JOB_COMPLETION_INDEX" --master-addr {first} --master-port {PORT}'
    trainer = shlex.join(["-m", "--", "trainer", *going_on(job.command)])
    limits = {
        "cpu": str(job.threads_per_rank * job.ranks_per_node),
        **({"memory": config.memory} if config.memory else {}),
        **({"nvidia.com/gpu": str(job.ranks_per_node)} if job.accelerator == "cuda" else {}),
    }
    container = {
        "name": "trainer",
        "image": config.image,
        "workingDir": config.mount,
        "command": ["sh", "-c", f"exec {shlex.join(launcher)} {meeting} {trainer}"],
        "env": [{"name": name, "value": value} for name, value in job.environment.items()],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": limits},
        "volumeMounts": [{"name": "data", "mountPath": config.mount}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(job.grace_seconds),
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": config.claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": config.shared_memory}},
        ],
    }
    ranks = {
        "completionMode": "Indexed",
        "parallelism": job.nodes,
        "completions": job.nodes,
        "backoffLimit": 0,  # a pod that fails fails the job, and the JobSet starts all pods anew
        "template": {**({"metadata": {"labels": dict(config.labels)}} if config.labels else {}), "spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": config.name, **({"namespace": config.namespace} if config.namespace else {})},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": config.name},
            "failurePolicy": {"maxRestarts": job.max_restarts},
            "replicatedJobs": [{"name": _ROLE, "replicas": 1, "template": {"spec": ranks}}],
        },
    }
