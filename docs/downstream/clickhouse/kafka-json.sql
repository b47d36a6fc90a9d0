-- From a topic with layout: json, schema: otel (one object a message) into flows.records, with what
-- enrichment added.
--
-- A message is read as one text and taken apart in the view: the engine begins anew for each message,
-- which with a column for each key takes several times as long.

CREATE TABLE IF NOT EXISTS flows.from_json (message String)
ENGINE = Kafka
SETTINGS
    kafka_broker_list = 'kafka:9092',
    kafka_topic_list = 'network-flows',
    kafka_group_name = 'clickhouse',
    kafka_format = 'JSONAsString',
    kafka_handle_error_mode = 'stream',
    kafka_num_consumers = 1,
    kafka_flush_interval_ms = 7500,
    kafka_max_block_size = 65536;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.records_from_json TO flows.records AS
WITH text -> toIPv6OrDefault(text) AS address,
     text -> if(text = '', 0, MACStringToNum(text)) AS mac,
     text -> parseDateTime64BestEffortOrZero(text, 9, 'UTC') AS moment
SELECT
    moment(time.start) AS flow_start,
    moment(time.`end`) AS flow_end,
    address(observer.address) AS agent,
    observer.name AS agent_name,
    address(source.address) AS src_addr,
    address(destination.address) AS dst_addr,
    source.port AS src_port,
    destination.port AS dst_port,
    network.iana_number AS ip_protocol,
    flow.icmp.type AS icmp_type,
    flow.icmp.code AS icmp_code,
    if(flow.direction = 'egress', 'egress', 'ingress') AS direction,
    flow.interfaces.name AS interfaces,
    arrayMap(one -> toUInt8(one = 'egress'), flow.interfaces.direction) AS interface_directions,
    mac(source.mac) AS src_mac,
    mac(destination.mac) AS dst_mac,
    network.vlan.id AS vlan_id,
    network.inner.vlan.id AS inner_vlan_id,
    flow.packets AS packets,
    flow.bytes AS octets_l2,
    flow.ip_bytes AS octets_l3,
    flow.tcp_flags AS tcp_control_bits,
    flow.dscp AS dscp,
    sampling.interval AS sampling_interval,
    flow.duplicate AS duplicate,
    flow.end_reason AS end_reason,
    source.k8s.kind AS src_kind,
    source.k8s.namespace.name AS src_namespace,
    source.k8s.name AS src_name,
    source.k8s.owner.kind AS src_owner_kind,
    source.k8s.owner.name AS src_owner,
    source.k8s.node.name AS src_node,
    address(source.k8s.node.ip) AS src_node_addr,
    source.k8s.zone AS src_zone,
    source.domain AS src_domain,
    source.`as`.number AS src_as,
    source.geo.country.iso_code AS src_country,
    destination.k8s.kind AS dst_kind,
    destination.k8s.namespace.name AS dst_namespace,
    destination.k8s.name AS dst_name,
    destination.k8s.owner.kind AS dst_owner_kind,
    destination.k8s.owner.name AS dst_owner,
    destination.k8s.node.name AS dst_node,
    address(destination.k8s.node.ip) AS dst_node_addr,
    destination.k8s.zone AS dst_zone,
    destination.domain AS dst_domain,
    destination.`as`.number AS dst_as,
    destination.geo.country.iso_code AS dst_country
FROM
(
    SELECT
        JSONExtract(message, 'Tuple(
            time Tuple(start String, `end` String),
            source Tuple(
                address String, port UInt16, mac String, domain String,
                k8s Tuple(kind String, name String, namespace Tuple(name String),
                          owner Tuple(kind String, name String), node Tuple(name String, ip String),
                          zone String),
                `as` Tuple(number UInt32),
                geo Tuple(country Tuple(iso_code String))),
            destination Tuple(
                address String, port UInt16, mac String, domain String,
                k8s Tuple(kind String, name String, namespace Tuple(name String),
                          owner Tuple(kind String, name String), node Tuple(name String, ip String),
                          zone String),
                `as` Tuple(number UInt32),
                geo Tuple(country Tuple(iso_code String))),
            network Tuple(
                iana_number UInt8, vlan Tuple(id UInt16), inner Tuple(vlan Tuple(id UInt16))),
            flow Tuple(
                bytes UInt64, ip_bytes UInt64, packets UInt64, direction String, dscp UInt8,
                tcp_flags UInt16, icmp Tuple(type UInt8, code UInt8), end_reason String, duplicate Bool,
                interfaces Array(Tuple(name String, direction String))),
            observer Tuple(address String, name String),
            sampling Tuple(interval UInt32))')
        AS record,
        record.time AS time,
        record.source AS source,
        record.destination AS destination,
        record.network AS network,
        record.flow AS flow,
        record.observer AS observer,
        record.sampling AS sampling
    FROM flows.from_json
    WHERE _error = '' AND JSONHas(message, 'time', 'start')
);

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.unreadable_from_json TO flows.unreadable AS
SELECT now('UTC') AS moment, _topic AS topic, _partition AS partition, _offset AS offset,
       _error AS error, if(_error = '', message, _raw_message) AS message
FROM flows.from_json
WHERE _error != '' OR NOT JSONHas(message, 'time', 'start');
