"""Where stages run: `llmrecipe plan RECIPE --machine NAME`. No stage reruns for another machine."""

from llmrecipe import Machine, place


def here() -> Machine:
    """This machine, with two workers for text, and a GPU if there is one."""
    return Machine()


def slurm_cluster() -> Machine:
    """Text on a Slurm cluster, 64 shards at once; set the partition to one of yours."""
    return Machine(workers=64, text_on=place.Slurm(partition="cpu", time_limit="8:00:00"))


def ray_cluster() -> Machine:
    """Text on the Ray cluster that `RAY_ADDRESS` names, 64 shards at once."""
    return Machine(workers=64, text_on=place.Ray())


def gpu_node() -> Machine:
    """A node with GPUs and many cores, for runs of days: checkpoints further apart."""
    return Machine(device="cuda", workers=32, checkpoint_interval=1000)
