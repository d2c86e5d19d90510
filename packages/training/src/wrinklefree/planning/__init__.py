"""`wf plan`: what a run with gradients will take, before there is one: memory, time, cost.

    main       the command line
    request    its arguments -> the run's configuration (that of `wf train`) and a machine
    shapes     a model's tensors by name, out of its config.json
    memory     bytes by what they are for
    work       arithmetic, and how fast it was done where it was measured
    machines   processors with their memory, peak and price
    plan       all of it together; report: as a table

No PyTorch is imported and no weight is read. docs/planning.md explains the formulas and what they were
checked against.
"""
