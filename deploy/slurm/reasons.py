"""What Slurm says when it refuses a job or lets it wait, in our words, each with the key of a site that would help.

Slurm's texts: slurm_errno.c and squeue(1), JOB REASON CODES, of Slurm 22.05; later versions kept them.
"""

import re

# Of sbatch. What it says otherwise, such as that a node is down at the moment, is no refusal: the job may wait.
_REFUSALS = {
    "invalid partition specified|Invalid partition name|InvalidPartition": ("the partition is unknown", "partition"),
    "Invalid account|InvalidAccount": ("the account is unknown, or not yours here", "account"),
    "Invalid qos|InvalidQOS": ("the QOS is unknown, or not allowed here", "qos"),
    "Required partition not available": ("the partition takes no jobs at the moment", "partition"),
    "User's group not permitted|not permitted to use": ("the partition is not open to you", "partition"),
    "Requested time limit is invalid|time limit exceeds|Requested partition configuration not available": (
        "it asks for more time or nodes than the partition allows",
        "time, nodes or partition",
    ),
    "Node count specification invalid|More processors requested|Requested node configuration is not available": (
        "no node, or too few of them, have the nodes, CPUs, memory, GPUs or features that it asks for",
        "nodes, cpus, memory, gpus_per_node or options",
    ),
    "Memory specification can not be satisfied|Memory required": ("it asks for more memory than a node has", "memory"),
    r"Invalid generic resource \(gres\)|Invalid GRES": (
        "it asks for GPUs of a type, or a resource, that is unknown",
        "gpus_per_node or gpu_type",
    ),
    "Invalid node name specified": ("it asks for a node that is unknown", "options"),
    "Requested reservation is invalid": ("the reservation is unknown, or not yours", "options"),
    "Invalid feature specification": ("it asks for a constraint that no node has", "options"),
    "MaxSubmit": ("you have as many jobs in the queue as your account or QOS allows", "account or qos"),
    "Job violates accounting/QOS policy|AssocMax|QOSMax|AssocGrp": (
        "it asks for more than your account or QOS may have",
        "nodes, time, account or qos",
    ),
}
# sbatch --test-only says this also while nodes are down.
_AMBIGUOUS = "Requested node configuration is not available"
_TOO_LARGE = "cannot start: more than a job of your account or QOS may have; fix: set the site's nodes, cpus or time"
# Of squeue, for jobs that wait: what starts a reason, and what it means. The first that fits counts.
_PENDING = {
    "DependencyNeverSatisfied": "can never start: the job before it failed; fix: the error, then submit again",
    "Dependency": "waits for the previous stage",
    "BeginTime": "restarts soon",
    "JobArrayTaskLimit": "waits for its turn: --at-once limits the tasks",
    "Priority": "waits for jobs of higher priority",
    "Nodes required for job are DOWN": "waits for nodes that are down, drained or reserved",
    "Resources": "is next: waits for free nodes",
    "ReqNodeNotAvail": "waits for nodes that are down, drained or reserved",
    "NodeDown": "waits for nodes that are down, drained or reserved",
    "PartitionDown": "waits: the partition is closed at the moment",
    "PartitionInactive": "waits: the partition is closed at the moment",
    "PartitionConfig": "cannot start: the partition has too few nodes; fix: set the site's nodes or partition",
    "PartitionTimeLimit": "cannot start: more time than the partition allows; fix: set the site's time",
    "PartitionNodeLimit": "cannot start: more nodes than the partition allows; fix: set the site's nodes or partition",
    "BadConstraints": "cannot start: no node has all it asks for; fix: set the site's nodes, cpus, memory or options",
    "AccountNotAllowed": "cannot start: the partition is not open to the account; fix: set the site's account",
    "InvalidAccount": "cannot start: the account is unknown; fix: set the site's account",
    "InvalidQOS": "cannot start: the QOS is unknown; fix: set the site's qos",
    "QOSNotAllowed": "cannot start: the QOS is not allowed here; fix: set the site's qos",
    "QOSMaxWall": "cannot start: more time than the QOS allows; fix: set the site's time or qos",
    "QOSMin": "cannot start: fewer CPUs, nodes or GPUs than the QOS asks for; fix: set the site's nodes, cpus or qos",
    "AssocGrp": "waits: your account has used up what its group may use at a time or in total",
    "AssocMax": "waits: you already use as much as your account allows",
    "QOS": "waits: you already use as much as the QOS allows",
    "ReservationDeleted": "cannot start: its reservation was deleted; fix: set the site's options",
    "Reservation": "waits for its reservation",
    "JobHeldUser": "is held by you; fix: `scontrol release` it",
    "JobHeldAdmin": "is held by the site's staff",
    "JobHoldMaxRequeue": "is held: it was requeued too often; fix: ask the site's staff",
    "launch failed requeued held": "is held: a node could not start it; fix: ask the site's staff",
    "job requeued in held state": "is held: it was requeued so; fix: `scontrol release` it",
    "Licenses": "waits for licenses",
    "Cleaning": "waits for its previous start to end",
}


def why_refused(message: str) -> str:
    """Return why sbatch refuses a script, with the fix, from its message; an empty text if it may not be a refusal."""
    for pattern, (why, keys) in _REFUSALS.items():
        if re.search(pattern, message, re.IGNORECASE):
            return f"{why}; fix: set the site's {keys}"
    return ""


def may_pass(message: str) -> bool:
    """Return whether a refusal may be due to nodes that are away at the moment."""
    return _AMBIGUOUS.lower() in message.lower()


def why_pending(reason: str) -> str:
    """Return why a job waits, from squeue's reason: Slurm's own word follows ours."""
    name = reason.strip().partition(",")[0].strip("() ")
    words = name.replace("_", " ")
    said = next((text for start, text in _PENDING.items() if words.startswith(start)), "")
    if name.startswith(("Assoc", "QOS")) and "PerJob" in name:
        said = _TOO_LARGE
    if name in ("Dependency", "BeginTime") or not said:
        return said or ("" if name == "None" else name)
    return f"{said} ({name})"
