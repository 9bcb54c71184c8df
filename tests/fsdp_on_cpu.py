"""`derta.train` under FSDP2 without a GPU, for tests: accelerate shards models on GPUs alone, so it is told that the
CPU's processes are a GPU's."""

from accelerate import PartialState
from accelerate.utils import DistributedType

from derta import train

start = PartialState.__init__


def start_as_gpus(self, *args, **kwargs):
    start(self, *args, **kwargs)
    if self._shared_state["distributed_type"] is DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


finish = train.finish


def finish_sharded(trainer, *args):
    assert type(next(trainer.model.parameters())).__name__ == "DTensor", "the weights are not sharded"
    finish(trainer, *args)


PartialState.__init__ = start_as_gpus
train.finish = finish_sharded
train.main()
