"""The plan of a study as its options ask for it; what it runs on is settled here. Loads torch when it is called."""

import dataclasses
from typing import TYPE_CHECKING

from study.cli.bar import working
from study.cli.terminal import print_error
from study.config.config import StudyConfig

if TYPE_CHECKING:
    from study.planning.plan import Plan


def plan_study(config: StudyConfig) -> "Plan":
    """The plan of a study, which is checked and not started; of several defenses the first one's, with all options.

    Raises:
        UserError: anything in the options that cannot work.
    """
    with working("loading torch and the images"):
        import torch

        from study.planning.devices import check_cpus, settle_device, settle_precision
        from study.planning.idle_options import idle_options, idle_values
        from study.planning.plan import make_plan
        from study.planning.several_defenses import child_configs
        from study.planning.state_room import check_keep_states, check_state_room

        torch.set_num_threads(config.threads)  # what is in the store is asked for as the workers will ask for it
        check_cpus(config.cpus, remote=config.address is not None)
        device, gpus = settle_device(config.gpus_per_trial, remote=config.address is not None)
        precision = settle_precision(config.precision, device)
        configs = child_configs(config) if config.defenses else (config,)
        plans = [make_plan(own, device, gpus, precision) for own in configs]  # all, before the first is started
    check_keep_states(plans)
    check_state_room(plans)
    for plan in plans:
        idle = idle_values(plan.config.set, plan.base, plan.space.ranges, plan.defense)
        for note in (*idle_options(plan.config, plan.defense), *idle):
            print_error(f"warning: {note}")
    return dataclasses.replace(plans[0], config=config) if config.defenses else plans[0]
