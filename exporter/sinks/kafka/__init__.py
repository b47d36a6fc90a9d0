"""Flow records to Apache Kafka."""
