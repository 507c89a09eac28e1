"""`unsmear models`: lists the networks."""

from unsmear.cli.terminal import answer


def models() -> None:
    """List the networks.

    A network without weights has to be trained first. Inside, pictures are padded so that their sides are a
    multiple of what is told; they come back at their own size.
    """
    import torch

    from unsmear.models import DESCRIPTIONS, count_parameters, create_model, list_models, shipped_weights

    width = max(map(len, list_models()))
    row = f"{{:<{width}}}  {{:>10}}  {{:<7}}  {{:>8}}  {{}}"
    answer(row.format("name", "parameters", "weights", "multiple", "description"))
    for name in list_models():
        with torch.device("meta"):
            network = create_model(name)
        weights = "shipped" if shipped_weights(name) else "none"
        size, multiple = f"{count_parameters(network):,}", network.size_multiple
        answer(row.format(name, size, weights, multiple, DESCRIPTIONS[name]))
