"""Devices and clusters of them, by their data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A device, by its data sheet."""

    name: str
    """What reports call it."""
    bandwidth: float
    """Bytes in a second."""
    rate: float
    """Floating-point operations in a second, dense, in bfloat16."""
    memory: float
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes of equal devices: how fast they reach each other, and how much of their rate training has used."""

    device: Device
    """Each of its devices."""
    link: float
    """Bytes in a second that a device sends to others of its node."""
    network: float
    """Bytes in a second that a device sends to other nodes, by a network card of its own."""
    efficiency: float
    """The share of the device's rate at which products of matrices run in training, with everything that accompanies
    them on the device. It is fitted to one published run on such devices; ``docs/scaling.md`` says which."""
    per_node: int = 8
    """Devices of a node."""
    link_latency: float = 3.4e-6
    """Seconds of a hop of a ring within a node, as NCCL's model of its ring assumes for large messages."""
    network_latency: float = 14e-6
    """Seconds of a hop between nodes, from the same model."""


A100 = Device("A100 SXM", bandwidth=2.039e12, rate=312e12, memory=80e9)
H100 = Device("H100 SXM", bandwidth=3.35e12, rate=989e12, memory=80e9)
H200 = Device("H200 SXM", bandwidth=4.8e12, rate=989e12, memory=141e9)

# NVLink moves 600 GB/s, on Hopper 900 GB/s, half of them in each direction; the nodes have a network card of 200 Gb/s,
# on Hopper 400 Gb/s, for each GPU.
CLUSTERS = {
    "a100": Cluster(A100, link=300e9, network=25e9, efficiency=0.575),
    "h100": Cluster(H100, link=450e9, network=50e9, efficiency=0.405),
    "h200": Cluster(H200, link=450e9, network=50e9, efficiency=0.405),
}
"""Clusters by the name of their device: nodes of eight, as DGX systems are."""
