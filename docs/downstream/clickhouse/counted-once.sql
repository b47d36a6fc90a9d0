-- Both ends of a flow report it, each from its own node. These views count it once.

-- From the records: of each conversation the records of one agent, whole.
--
-- Records of the same flow, whoever made them, are one conversation until "gap" seconds pass in which
-- nobody saw a packet. No record reaches over such a pause, so it does not matter when which agent
-- drained, nor how far their clocks are apart, if that is less than the gap. The agent that samples
-- least is taken, then the one that saw most packets, then the source's own.
--
-- DISTINCT: what Kafka delivered twice is the same in all columns.
--
--   SELECT sum(octets_l2) FROM flows.counted_once(from = '2026-01-31 12:00:00',
--                                                until = '2026-01-31 13:00:00', gap = 30)
CREATE VIEW IF NOT EXISTS flows.counted_once AS
WITH
    reported AS
    (
        SELECT DISTINCT *, side, scope
        FROM flows.records
        WHERE flow_start >= {from:DateTime64(9, 'UTC')} AND flow_start < {until:DateTime64(9, 'UTC')}
            AND NOT duplicate
    ),
    pauses AS
    (
        SELECT *, flow_start > max(flow_end) OVER earlier + toIntervalSecond({gap:UInt32}) AS begins
        FROM reported
        WINDOW earlier AS (
            PARTITION BY src_addr, dst_addr, ip_protocol, src_port, dst_port, icmp_type, icmp_code, scope
            ORDER BY flow_start, flow_end ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ),
    conversations AS
    (
        SELECT *, sum(begins) OVER so_far AS conversation
        FROM pauses
        WINDOW so_far AS (
            PARTITION BY src_addr, dst_addr, ip_protocol, src_port, dst_port, icmp_type, icmp_code, scope
            ORDER BY flow_start, flow_end)
    ),
    weighed AS
    (
        SELECT *, sum(packets) OVER own AS seen
        FROM conversations
        WINDOW own AS (
            PARTITION BY src_addr, dst_addr, ip_protocol, src_port, dst_port, icmp_type, icmp_code, scope,
                conversation, agent)
    ),
    chosen AS
    (
        SELECT *, first_value(agent) OVER best AS reporter
        FROM weighed
        WINDOW best AS (
            PARTITION BY src_addr, dst_addr, ip_protocol, src_port, dst_port, icmp_type, icmp_code, scope,
                conversation
            ORDER BY sampling_interval, seen DESC, side != 'source', agent
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    )
SELECT * EXCEPT (begins, conversation, seen, reporter)
FROM chosen
WHERE agent = reporter;

-- From the minutes, for long ranges: of each pair and step the sums of the agent that saw most.
--
-- Never less than what any one agent saw of a pair within a step. It may be more: of a flow over
-- the edge of a step one agent counts a drain in the step before, the other in the step after. The
-- longer the steps (whole minutes), the fewer the edges.
--
--   SELECT sum(octets_l2) FROM flows.pairs_once(from = '2026-01-31 00:00:00',
--                                              until = '2026-02-01 00:00:00', step = 3600)
CREATE VIEW IF NOT EXISTS flows.pairs_once AS
SELECT
    step, src_addr, dst_addr, ip_protocol, scope,
    argMax(packets, seen) AS packets, argMax(octets_l2, seen) AS octets_l2
FROM
(
    SELECT
        toStartOfInterval(minute, toIntervalSecond({step:UInt32})) AS step,
        src_addr, dst_addr, ip_protocol, scope, agent,
        sum(p.packets) AS packets, sum(p.octets_l2) AS octets_l2,
        (-toInt64(min(sampling_interval)), packets, octets_l2) AS seen
    FROM flows.pairs AS p
    WHERE minute >= {from:DateTime('UTC')} AND minute < {until:DateTime('UTC')}
    GROUP BY ALL
)
GROUP BY ALL;

-- By workloads, needs names of Kubernetes: each record by itself says whether it counts. It does if
-- its agent is on the sender's node; or on the receiver's, and the sender is on no node; or both are
-- on none. Right in every minute whatever the clocks, if there is an agent on every node; flows from
-- a node whose agent is away are missing.
CREATE VIEW IF NOT EXISTS flows.workloads_once AS
SELECT * EXCEPT (side, src_known, dst_known)
FROM flows.workloads
WHERE multiIf(src_known, side = 'source', dst_known, side = 'destination', true);
