import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.QuorumInfo;
import org.apache.kafka.clients.admin.RaftVoterEndpoint;
import org.apache.kafka.common.Uuid;

/**
 * The metadata quorum through Kafka's own admin client (KIP-595, KIP-853).
 *
 * <p>Quorum BOOTSTRAP describe | remove NODE DIRECTORY | add NODE DIRECTORY HOST PORT. Tells, each on a line of its own,
 * "leader NODE" and "voter|observer NODE DIRECTORY LAG".
 */
public final class Quorum {
    private static void member(String role, QuorumInfo.ReplicaState state, long end) {
        String directory = state.replicaDirectoryId().toString();
        System.out.println(role + " " + state.replicaId() + " " + directory + " " + (end - state.logEndOffset()));
    }

    private static void describe(Admin admin) throws Exception {
        QuorumInfo info = admin.describeMetadataQuorum().quorumInfo().get();
        Map<Integer, Long> ends = info.voters().stream()
                .collect(Collectors.toMap(QuorumInfo.ReplicaState::replicaId, QuorumInfo.ReplicaState::logEndOffset));
        long end = ends.getOrDefault(info.leaderId(), 0L);
        System.out.println("leader " + info.leaderId());
        info.voters().forEach(voter -> member("voter", voter, end));
        info.observers().forEach(observer -> member("observer", observer, end));
    }

    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            switch (arguments[1]) {
                case "describe" -> describe(admin);
                case "remove" -> admin.removeRaftVoter(Integer.parseInt(arguments[2]), Uuid.fromString(arguments[3]))
                        .all().get();
                case "add" -> {
                    int port = Integer.parseInt(arguments[5]);
                    Set<RaftVoterEndpoint> endpoints = Set.of(new RaftVoterEndpoint("CONTROLLER", arguments[4], port));
                    admin.addRaftVoter(Integer.parseInt(arguments[2]), Uuid.fromString(arguments[3]), endpoints)
                            .all().get();
                }
                default -> throw new IllegalArgumentException(arguments[1]);
            }
        }
    }
}
