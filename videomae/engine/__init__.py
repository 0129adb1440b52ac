"""One optimizer step on any number of ranks, and the state that outlives it.

protocol    what an engine does, and its config          local             the reference: one process, plain PyTorch
optimizer   AdamW, its groups, steps that do not count   deepspeed_engine  ZeRO 0-3
snapshot    this rank's state, copied to the host        deepspeed_state   where ZeRO keeps what
fragments   the format on disk, which knows no topology  state             between engines, snapshots and fragments
rank_file   one file of it, read                         index             where each range stands, in all files
restoring   read back, each byte once for all ranks
blocks      recomputing and compiling, block by block    mixed_precision   half precision without DeepSpeed
overhead    the command that measures against plain DDP
"""
