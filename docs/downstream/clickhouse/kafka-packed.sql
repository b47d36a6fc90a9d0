-- From a topic with layout: packed (pbflow.Records: many records a message) into flows.records.
-- proto/flow.proto must be in the server's format_schema_path.

CREATE TABLE IF NOT EXISTS flows.from_packed
(
    `entries.direction` Array(UInt8),
    `entries.time_flow_start.seconds` Array(Int64),
    `entries.time_flow_start.nanos` Array(Int32),
    `entries.time_flow_end.seconds` Array(Int64),
    `entries.time_flow_end.nanos` Array(Int32),
    `entries.data_link.src_mac` Array(UInt64),
    `entries.data_link.dst_mac` Array(UInt64),
    `entries.network.src_addr.ipv4` Array(UInt32),
    `entries.network.src_addr.ipv6` Array(String),
    `entries.network.dst_addr.ipv4` Array(UInt32),
    `entries.network.dst_addr.ipv6` Array(String),
    `entries.network.dscp` Array(UInt32),
    `entries.transport.src_port` Array(UInt32),
    `entries.transport.dst_port` Array(UInt32),
    `entries.transport.protocol` Array(UInt32),
    `entries.bytes` Array(UInt64),
    `entries.packets` Array(UInt64),
    `entries.duplicate` Array(Bool),
    `entries.agent_ip.ipv4` Array(UInt32),
    `entries.agent_ip.ipv6` Array(String),
    `entries.flags` Array(UInt32),
    `entries.icmp_type` Array(UInt32),
    `entries.icmp_code` Array(UInt32),
    `entries.dup_list.interface` Array(Array(String)),
    `entries.dup_list.direction` Array(Array(UInt8)),
    `entries.sampling` Array(UInt32)
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'network-flows',
    kafka_group_name = 'clickhouse',
    kafka_format = 'ProtobufSingle',
    kafka_schema = 'flow.proto:Records',
    kafka_handle_error_mode = 'stream',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 7500,
    kafka_max_block_size = 64;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.records_from_packed TO flows.records AS
WITH (four, six) -> if(six = '', IPv4ToIPv6(toIPv4(four)),
                       CAST(toFixedString(left(six, 16), 16) AS IPv6)) AS address,
     (seconds, nanos) -> fromUnixTimestamp64Nano(seconds * 1000000000 + nanos, 'UTC') AS moment
SELECT
    moment(`time_flow_start.seconds`, `time_flow_start.nanos`) AS flow_start,
    moment(`time_flow_end.seconds`, `time_flow_end.nanos`) AS flow_end,
    address(`agent_ip.ipv4`, `agent_ip.ipv6`) AS agent,
    address(`network.src_addr.ipv4`, `network.src_addr.ipv6`) AS src_addr,
    address(`network.dst_addr.ipv4`, `network.dst_addr.ipv6`) AS dst_addr,
    `transport.src_port` AS src_port,
    `transport.dst_port` AS dst_port,
    `transport.protocol` AS ip_protocol,
    icmp_type,
    icmp_code,
    if(direction = 1, 'egress', 'ingress') AS direction,
    `dup_list.interface` AS interfaces,
    `dup_list.direction` AS interface_directions,
    `data_link.src_mac` AS src_mac,
    `data_link.dst_mac` AS dst_mac,
    packets,
    bytes AS octets_l2,
    bitAnd(flags, 255) AS tcp_control_bits,
    bitShiftRight(flags, 8) AS tcp_flag_sets,
    `network.dscp` AS dscp,
    sampling AS sampling_interval,
    duplicate
FROM flows.from_packed
ARRAY JOIN
    `entries.direction` AS `direction`,
    `entries.time_flow_start.seconds` AS `time_flow_start.seconds`,
    `entries.time_flow_start.nanos` AS `time_flow_start.nanos`,
    `entries.time_flow_end.seconds` AS `time_flow_end.seconds`,
    `entries.time_flow_end.nanos` AS `time_flow_end.nanos`,
    `entries.data_link.src_mac` AS `data_link.src_mac`,
    `entries.data_link.dst_mac` AS `data_link.dst_mac`,
    `entries.network.src_addr.ipv4` AS `network.src_addr.ipv4`,
    `entries.network.src_addr.ipv6` AS `network.src_addr.ipv6`,
    `entries.network.dst_addr.ipv4` AS `network.dst_addr.ipv4`,
    `entries.network.dst_addr.ipv6` AS `network.dst_addr.ipv6`,
    `entries.network.dscp` AS `network.dscp`,
    `entries.transport.src_port` AS `transport.src_port`,
    `entries.transport.dst_port` AS `transport.dst_port`,
    `entries.transport.protocol` AS `transport.protocol`,
    `entries.bytes` AS `bytes`,
    `entries.packets` AS `packets`,
    `entries.duplicate` AS `duplicate`,
    `entries.agent_ip.ipv4` AS `agent_ip.ipv4`,
    `entries.agent_ip.ipv6` AS `agent_ip.ipv6`,
    `entries.flags` AS `flags`,
    `entries.icmp_type` AS `icmp_type`,
    `entries.icmp_code` AS `icmp_code`,
    `entries.dup_list.interface` AS `dup_list.interface`,
    `entries.dup_list.direction` AS `dup_list.direction`,
    `entries.sampling` AS `sampling`
WHERE _error = '';

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.unreadable_from_packed TO flows.unreadable AS
SELECT now('UTC') AS moment, _topic AS topic, _partition AS partition, _offset AS offset,
       _error AS error, _raw_message AS message
FROM flows.from_packed
WHERE _error != '';
