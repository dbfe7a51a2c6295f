"""Two small backends for Troupe: `scale` answers once, `countdown` as often as it is told."""
