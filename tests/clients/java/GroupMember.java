import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A member of a group with Kafka's own client: range, cooperative-sticky, or the consumer protocol (KIP-848).
 *
 * <p>GroupMember BOOTSTRAP TOPIC GROUP range|cooperative|consumer. Tells on standard output what
 * tests/groups/history.rs reads, and leaves when its standard input ends.
 */
public final class GroupMember implements ConsumerRebalanceListener {
    private final KafkaConsumer<String, String> consumer;
    private final String topic;
    /** Where to go on; since the last commit. */
    private final Map<Integer, Long> processed = new HashMap<>();

    private GroupMember(KafkaConsumer<String, String> consumer, String topic) {
        this.consumer = consumer;
        this.topic = topic;
    }

    private static void tell(String what, String rest) {
        System.out.println(what + " " + System.currentTimeMillis() + " " + rest);
        System.out.flush();
    }

    private void changed(String what, Collection<TopicPartition> partitions) {
        if (partitions.isEmpty()) {
            return;
        }
        String numbers = partitions.stream().map(p -> String.valueOf(p.partition())).collect(Collectors.joining(","));
        // Not known in time where the client runs in the background (KIP-848).
        int generation = consumer.groupMetadata().generationId();
        tell(what, (generation < 0 ? "-" : String.valueOf(generation)) + " " + numbers);
        partitions.forEach(p -> processed.remove(p.partition()));
    }

    private void commit(Collection<Integer> wanted) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (Integer partition : wanted) {
            Long offset = processed.get(partition);
            if (offset != null) {
                offsets.put(new TopicPartition(topic, partition), new OffsetAndMetadata(offset));
                tell("committing", partition + " " + offset);
            }
        }
        if (offsets.isEmpty()) {
            return;
        }
        try {
            consumer.commitSync(offsets, Duration.ofSeconds(10));
        } catch (KafkaException error) {
            tell("note", "commit: " + error);
            return;
        }
        offsets.forEach((partition, offset) -> {
            tell("committed", partition.partition() + " " + offset.offset());
            processed.remove(partition.partition());
        });
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        changed("assigned", partitions);
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        commit(partitions.stream().map(TopicPartition::partition).collect(Collectors.toList()));
        changed("revoked", partitions);
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        changed("lost", partitions);
    }

    private void run(CountDownLatch leave) {
        consumer.subscribe(List.of(topic), this);
        long last = System.nanoTime();
        while (leave.getCount() > 0) {
            StringBuilder lines = new StringBuilder();
            for (ConsumerRecord<String, String> r : consumer.poll(Duration.ofMillis(100))) {
                lines.append("record ").append(r.partition()).append(' ').append(r.offset()).append(' ');
                lines.append(r.value()).append('\n');
                processed.put(r.partition(), r.offset() + 1);
            }
            System.out.print(lines);
            System.out.flush();
            if (System.nanoTime() - last > 500_000_000L) {
                commit(List.copyOf(processed.keySet()));
                last = System.nanoTime();
            }
        }
        commit(List.copyOf(processed.keySet()));
        consumer.close();
        tell("left", "");
    }

    public static void main(String[] arguments) {
        String protocol = arguments[3];
        Properties config = new Properties();
        config.put("bootstrap.servers", arguments[0]);
        config.put("group.id", arguments[2]);
        config.put("key.deserializer", StringDeserializer.class.getName());
        config.put("value.deserializer", StringDeserializer.class.getName());
        config.put("enable.auto.commit", "false");
        config.put("auto.offset.reset", "earliest");
        config.put("reconnect.backoff.max.ms", "300");
        config.put("retry.backoff.ms", "50");
        config.put("fetch.max.wait.ms", "100");
        config.put("metadata.max.age.ms", "2000");
        if (protocol.equals("consumer")) {
            config.put("group.protocol", "consumer");
        } else {
            String assignor = protocol.equals("range") ? "RangeAssignor" : "CooperativeStickyAssignor";
            config.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor);
            config.put("session.timeout.ms", "6000");
            config.put("heartbeat.interval.ms", "500");
        }
        CountDownLatch leave = new CountDownLatch(1);
        Thread watch = new Thread(() -> {
            try {
                System.in.readAllBytes();
            } catch (java.io.IOException error) {
                tell("note", error.toString());
            }
            leave.countDown();
        });
        watch.setDaemon(true);
        watch.start();
        new GroupMember(new KafkaConsumer<>(config), arguments[1]).run(leave);
    }
}
