"""One optimizer step on any number of ranks, and engine state that is independent of topology.

protocol          the Engine protocol and its config     factory           builds the configured engine
local             the reference: one process, PyTorch    deepspeed_engine  ZeRO 0-3
optimizer         AdamW, parameter groups, skipped steps deepspeed_state   where ZeRO keeps weights and moments
mixed_precision   autocast and loss scaling              schedule          learning rates and durations
state/sharded     snapshot, restore and gather           state/snapshot    one rank's state on the host
state/rank_file   the format; one file                   state/index       where each range is, over all files
state/reader      reads any range                        state/restore     reads on all ranks, each byte once
"""
