"""What libraries say in the terminal, less what nobody there can use."""

import logging
import warnings


def quieten_libraries() -> None:
    """Leave to the terminal what a person can use."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    noise = (
        ".*LeafSpec.*",  # a deprecation inside Lightning
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*Couldn't infer the batch indices.*",  # our rows need none
        ".*The dirpath has changed from.*",  # as where a run goes on in another folder
        ".*Checkpoint directory .* exists and is not empty.*",  # as it is when a run goes on
    )
    for message in noise:
        warnings.filterwarnings("ignore", message=message)
    # One line, as all that is said here; the place in the code is no news to a person.
    warnings.formatwarning = lambda message, *args, **kwargs: f"warning: {message}\n"
