"""`derta.training` under FSDP2 without a GPU, for tests: accelerate shards models on GPUs only, so it is told that the
CPU's processes are a GPU's, and the loss is the one that is taken there. With ``DIES_AT``, all processes die at that
step."""

import os

from accelerate import PartialState
from accelerate.utils import DistributedType

from derta import trainers, training, tuned
from derta.commands import cli

start = PartialState.__init__


def start_as_gpus(self, *args, **kwargs):
    start(self, *args, **kwargs)
    if self.distributed_type is DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


make = trainers.Terms.__init__


def make_as_on_gpus(self, *args, **kwargs):
    make(self, *args, **kwargs)
    self.quick = False
    self.model.register_forward_hook(lambda model, args, outputs: self.read(outputs))


on_log = training.Progress.on_log


def die(self, args, state, *rest, **options):
    if str(state.global_step) == os.environ.get("DIES_AT"):
        os._exit(9)
    on_log(self, args, state, *rest, **options)


finish = tuned.finish


def finish_sharded(trainer, *args):
    assert type(next(trainer.model.parameters())).__name__ == "DTensor", "the weights are not sharded"
    finish(trainer, *args)


PartialState.__init__ = start_as_gpus
trainers.Terms.__init__ = make_as_on_gpus
training.Progress.on_log = die
tuned.finish = finish_sharded
cli.main()
