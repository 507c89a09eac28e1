"""`unsmear doctor`: looks at the installation."""

from unsmear.cli.terminal import answer


def doctor() -> int:
    """Show versions, device and memory, for when something is wrong."""
    from unsmear.doctor import examine

    is_healthy = True
    for what, finding, is_good in examine():
        answer(f"{what:<18}{'' if is_good else 'PROBLEM: '}{finding}")
        is_healthy = is_healthy and is_good
    return 0 if is_healthy else 1
