-- From a topic with layout: netobserv (one pbflow.Record a message) into flows.records.
-- proto/flow.proto must be in the server's format_schema_path.

CREATE TABLE IF NOT EXISTS flows.from_netobserv
(
    direction UInt8,
    `time_flow_start.seconds` Int64,
    `time_flow_start.nanos` Int32,
    `time_flow_end.seconds` Int64,
    `time_flow_end.nanos` Int32,
    `data_link.src_mac` UInt64,
    `data_link.dst_mac` UInt64,
    `network.src_addr.ipv4` UInt32,
    `network.src_addr.ipv6` String,
    `network.dst_addr.ipv4` UInt32,
    `network.dst_addr.ipv6` String,
    `network.dscp` UInt32,
    `transport.src_port` UInt32,
    `transport.dst_port` UInt32,
    `transport.protocol` UInt32,
    bytes UInt64,
    packets UInt64,
    duplicate Bool,
    `agent_ip.ipv4` UInt32,
    `agent_ip.ipv6` String,
    flags UInt32,
    icmp_type UInt32,
    icmp_code UInt32,
    `dup_list.interface` Array(String),
    `dup_list.direction` Array(UInt8),
    sampling UInt32
)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'network-flows',
    kafka_group_name = 'clickhouse',
    kafka_format = 'ProtobufSingle',
    kafka_schema = 'flow.proto:Record',
    kafka_handle_error_mode = 'stream',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 7500,
    kafka_max_block_size = 65536;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.records_from_netobserv TO flows.records AS
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
FROM flows.from_netobserv
WHERE _error = '';

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.unreadable_from_netobserv TO flows.unreadable AS
SELECT now('UTC') AS moment, _topic AS topic, _partition AS partition, _offset AS offset,
       _error AS error, _raw_message AS message
FROM flows.from_netobserv
WHERE _error != '';
