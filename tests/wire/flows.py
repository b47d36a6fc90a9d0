"""What a collector of IPFIX should show of a batch, written down once more and row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from exporter.batch.batch import FlowBatch
from exporter.batch.record import records


def expected(batch: FlowBatch, time: str = "milliseconds") -> list[dict[str, Any]]:
    """The elements of every row, in the batch's order, as ``tests.wire.ipfix`` reads them."""
    flows = []
    numbers = zip(batch.ifindex.tolist(), batch.netns.tolist(), strict=True)
    for record, (ifindex, netns) in zip(records(batch), numbers, strict=True):
        six = record.ip_version == 6
        number = ifindex if not netns else 2**31 + (netns % 2**15) * 2**16 + ifindex % 2**16
        ingress = record.direction == 0
        flow: dict[str, Any] = {
            f"sourceIPv{record.ip_version}Address": record.source,
            f"destinationIPv{record.ip_version}Address": record.destination,
            "sourceTransportPort": record.source_port,
            "destinationTransportPort": record.destination_port,
            f"icmpTypeCodeIPv{record.ip_version}": (
                record.destination_port if record.ip_protocol in (1, 58) else 0
            ),
            "protocolIdentifier": record.ip_protocol,
            "vlanId": record.vlan_id if ingress else 0,
            "postVlanId": 0 if ingress else record.vlan_id,
            "dot1qCustomerVlanId": record.inner_vlan_id,
            "sourceMacAddress": record.source_mac,
            "destinationMacAddress": record.destination_mac,
            "packetDeltaCount": record.packets,
            "octetDeltaCount": record.octets_l3,
            "layer2OctetDeltaCount": record.octets_l2,
            "tcpControlBits": record.tcp_control_bits,
            "ipDiffServCodePoint": record.dscp,
            "ipClassOfService": record.dscp * 4,
            "flowEndReason": record.end_reason,
            "samplingInterval": record.sampling_interval,
            "ingressInterface": number if ingress else 0,
            "egressInterface": 0 if ingress else number,
            "flowDirection": record.direction,
        }
        times = {"Start": record.time_flow_start_ns, "End": record.time_flow_end_ns}
        for which, value in times.items():
            if time == "milliseconds":
                flow[f"flow{which}Milliseconds"] = value // 10**6
            else:
                flow[f"flow{which}Nanoseconds"] = value
        flows.append(flow)
        assert six == (":" in record.source)
    return flows


def by_family(batch: FlowBatch) -> FlowBatch:
    """The same rows, IPv4 first: the order in which they are sent."""
    ipv4 = batch.is_ipv4()
    return batch.take(np.concatenate([np.flatnonzero(ipv4), np.flatnonzero(~ipv4)]))
