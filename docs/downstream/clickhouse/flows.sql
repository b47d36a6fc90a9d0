-- Where flows are kept, whichever layout they came in; and sums of each minute.

CREATE DATABASE IF NOT EXISTS flows;

-- One row for each record. MergeTree and nothing that replaces rows: none is ever lost here.
--
-- Ordered by five minutes, then by flow: records of one flow lie together, which is what compresses
-- best and what "counted_once" reads. Addresses are 16 octets, IPv4 as ::ffff/96. What pbflow does
-- not carry (octets_l3, VLANs, end_reason, all that enrichment adds) is 0 or empty with it.
CREATE TABLE IF NOT EXISTS flows.records
(
    flow_start DateTime64(9, 'UTC') CODEC(Delta, ZSTD),
    flow_end DateTime64(9, 'UTC') CODEC(Delta, ZSTD),
    agent IPv6 CODEC(ZSTD),
    agent_name LowCardinality(String),
    src_addr IPv6 CODEC(ZSTD),
    dst_addr IPv6 CODEC(ZSTD),
    src_port UInt16 CODEC(ZSTD),
    dst_port UInt16 CODEC(ZSTD),
    ip_protocol UInt8 CODEC(ZSTD),
    icmp_type UInt8 CODEC(ZSTD),
    icmp_code UInt8 CODEC(ZSTD),
    direction Enum8('ingress' = 0, 'egress' = 1),
    interfaces Array(LowCardinality(String)),
    interface_directions Array(UInt8),
    src_mac UInt64 CODEC(ZSTD),
    dst_mac UInt64 CODEC(ZSTD),
    vlan_id UInt16 CODEC(ZSTD),
    inner_vlan_id UInt16 CODEC(ZSTD),
    packets UInt64 CODEC(T64, ZSTD),
    octets_l2 UInt64 CODEC(T64, ZSTD),
    octets_l3 UInt64 CODEC(T64, ZSTD),
    tcp_control_bits UInt16 CODEC(ZSTD),
    tcp_flag_sets UInt8 CODEC(ZSTD),
    dscp UInt8 CODEC(ZSTD),
    sampling_interval UInt32 CODEC(ZSTD),
    duplicate Bool CODEC(ZSTD),
    end_reason LowCardinality(String),
    src_kind LowCardinality(String),
    src_namespace LowCardinality(String),
    src_name String CODEC(ZSTD),
    src_owner_kind LowCardinality(String),
    src_owner LowCardinality(String),
    src_node LowCardinality(String),
    src_node_addr IPv6 CODEC(ZSTD),
    src_zone LowCardinality(String),
    src_domain String CODEC(ZSTD),
    src_as UInt32 CODEC(ZSTD),
    src_country LowCardinality(String),
    dst_kind LowCardinality(String),
    dst_namespace LowCardinality(String),
    dst_name String CODEC(ZSTD),
    dst_owner_kind LowCardinality(String),
    dst_owner LowCardinality(String),
    dst_node LowCardinality(String),
    dst_node_addr IPv6 CODEC(ZSTD),
    dst_zone LowCardinality(String),
    dst_domain String CODEC(ZSTD),
    dst_as UInt32 CODEC(ZSTD),
    dst_country LowCardinality(String),
    -- Whose node the agent is on: what sums of a minute are counted once by.
    side Enum8('neither' = 0, 'source' = 1, 'destination' = 2) MATERIALIZED multiIf(
        agent IN (src_addr, src_node_addr), 'source',
        agent IN (dst_addr, dst_node_addr), 'destination',
        'neither'),
    -- Addresses that many hosts have (loopback, link-local, none yet): what tells their flows apart,
    -- the sender's MAC address or the agent. Else 0.
    scope UInt64 MATERIALIZED if(
        arrayExists(one -> one IN (toIPv6('::'), toIPv6('::1'), toIPv6('0.0.0.0'))
                OR one BETWEEN toIPv6('127.0.0.0') AND toIPv6('127.255.255.255')
                OR one BETWEEN toIPv6('169.254.0.0') AND toIPv6('169.254.255.255')
                OR one BETWEEN toIPv6('fe80::') AND toIPv6('febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff'),
            [src_addr, dst_addr]),
        if(src_mac = 0, cityHash64(agent), src_mac), 0) CODEC(ZSTD),
    INDEX by_source src_addr TYPE bloom_filter GRANULARITY 4,
    INDEX by_destination dst_addr TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(flow_start)
ORDER BY (toStartOfFiveMinutes(flow_start), src_addr, dst_addr, ip_protocol, src_port, dst_port,
          flow_start)
TTL toDateTime(flow_start) + INTERVAL 7 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Every pair of addresses in every minute, as each agent has it.
CREATE TABLE IF NOT EXISTS flows.pairs
(
    minute DateTime('UTC') CODEC(Delta, ZSTD),
    agent IPv6 CODEC(ZSTD),
    scope UInt64 CODEC(ZSTD),
    src_addr IPv6 CODEC(ZSTD),
    dst_addr IPv6 CODEC(ZSTD),
    ip_protocol UInt8 CODEC(ZSTD),
    sampling_interval UInt32 CODEC(ZSTD),
    records UInt64 CODEC(T64, ZSTD),
    packets UInt64 CODEC(T64, ZSTD),
    octets_l2 UInt64 CODEC(T64, ZSTD)
)
ENGINE = SummingMergeTree((records, packets, octets_l2))
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, src_addr, dst_addr, ip_protocol, scope, agent, sampling_interval)
TTL minute + INTERVAL 90 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.pairs_of_records TO flows.pairs AS
SELECT
    toStartOfMinute(toDateTime(flow_start, 'UTC')) AS minute,
    agent, scope, src_addr, dst_addr, ip_protocol, sampling_interval,
    count() AS records, sum(packets) AS packets, sum(octets_l2) AS octets_l2
FROM flows.records
WHERE NOT duplicate
GROUP BY ALL;

-- Every pair of workloads in every minute, with their names; outside a cluster autonomous systems
-- and countries. Whether the nodes of either end are known is what "workloads_once" needs.
CREATE TABLE IF NOT EXISTS flows.workloads
(
    minute DateTime('UTC') CODEC(Delta, ZSTD),
    side Enum8('neither' = 0, 'source' = 1, 'destination' = 2),
    src_known Bool,
    dst_known Bool,
    src_namespace LowCardinality(String),
    src_owner_kind LowCardinality(String),
    src_owner LowCardinality(String),
    src_zone LowCardinality(String),
    src_as UInt32 CODEC(ZSTD),
    src_country LowCardinality(String),
    dst_namespace LowCardinality(String),
    dst_owner_kind LowCardinality(String),
    dst_owner LowCardinality(String),
    dst_zone LowCardinality(String),
    dst_as UInt32 CODEC(ZSTD),
    dst_country LowCardinality(String),
    ip_protocol UInt8 CODEC(ZSTD),
    sampling_interval UInt32 CODEC(ZSTD),
    records UInt64 CODEC(T64, ZSTD),
    packets UInt64 CODEC(T64, ZSTD),
    octets_l2 UInt64 CODEC(T64, ZSTD)
)
ENGINE = SummingMergeTree((records, packets, octets_l2))
PARTITION BY toYYYYMM(minute)
ORDER BY (minute, src_namespace, src_owner_kind, src_owner, dst_namespace, dst_owner_kind,
          dst_owner, src_zone, dst_zone, src_as, src_country, dst_as, dst_country, ip_protocol, side,
          src_known, dst_known, sampling_interval)
TTL minute + INTERVAL 400 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS flows.workloads_of_records TO flows.workloads AS
SELECT
    toStartOfMinute(toDateTime(flow_start, 'UTC')) AS minute,
    side, src_node_addr != toIPv6('::') AS src_known, dst_node_addr != toIPv6('::') AS dst_known,
    src_namespace, src_owner_kind, src_owner, src_zone, src_as, src_country,
    dst_namespace, dst_owner_kind, dst_owner, dst_zone, dst_as, dst_country,
    ip_protocol, sampling_interval,
    count() AS records, sum(packets) AS packets, sum(octets_l2) AS octets_l2
FROM flows.records
WHERE NOT duplicate
GROUP BY ALL;

-- Messages that are no flows, as they came, with what is wrong about them.
CREATE TABLE IF NOT EXISTS flows.unreadable
(
    moment DateTime('UTC'),
    topic LowCardinality(String),
    partition UInt64,
    offset UInt64,
    error String CODEC(ZSTD),
    message String CODEC(ZSTD)
)
ENGINE = MergeTree
ORDER BY moment
TTL moment + INTERVAL 7 DAY;
