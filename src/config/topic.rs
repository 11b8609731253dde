//! Topic configs under Kafka's names: definitions, defaults, validation, and the resolved form.
