// A member of a group with franz-go: cooperative-sticky, range, or the consumer protocol (KIP-848).
//
//	member BOOTSTRAP TOPIC GROUP range|cooperative|consumer
//
// Tells on standard output what tests/groups/history.rs reads, and leaves when its standard input ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// member is touched by the polling goroutine and by the callbacks; those wait for AllowRebalance, except for "lost".
type member struct {
	client    *kgo.Client
	topic     string
	lock      sync.Mutex
	out       *bufio.Writer
	processed map[int32]kgo.EpochOffset
}

func (m *member) tell(what string, rest ...any) {
	fmt.Fprintf(m.out, "%s %d %s", what, time.Now().UnixMilli(), fmt.Sprintln(rest...))
	m.out.Flush()
}

// changed is called with the lock held.
func (m *member) changed(what string, generation int32, partitions []int32) {
	if len(partitions) == 0 {
		return
	}
	sort.Slice(partitions, func(a, b int) bool { return partitions[a] < partitions[b] })
	names := make([]string, len(partitions))
	for i, partition := range partitions {
		names[i] = fmt.Sprint(partition)
		delete(m.processed, partition)
	}
	m.tell(what, generation, strings.Join(names, ","))
}

// commit is called with the lock held.
func (m *member) commit(ctx context.Context, client *kgo.Client, wanted func(int32) bool) {
	offsets := map[int32]kgo.EpochOffset{}
	for partition, offset := range m.processed {
		if wanted(partition) {
			offsets[partition] = offset
			m.tell("committing", partition, offset.Offset)
		}
	}
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	done := func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			m.tell("note", "commit:", err)
			return
		}
		for _, topic := range answer.Topics {
			for _, partition := range topic.Partitions {
				if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
					m.tell("note", "commit:", partition.Partition, err)
					continue
				}
				m.tell("committed", partition.Partition, offsets[partition.Partition].Offset)
				delete(m.processed, partition.Partition)
			}
		}
	}
	client.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{m.topic: offsets}, done)
}

func (m *member) assigned(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	_, generation := client.GroupMetadata()
	m.changed("assigned", generation, partitions[m.topic])
}

func (m *member) revoked(ctx context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	_, generation := client.GroupMetadata()
	gone := map[int32]bool{}
	for _, partition := range partitions[m.topic] {
		gone[partition] = true
	}
	m.commit(ctx, client, func(partition int32) bool { return gone[partition] })
	m.changed("revoked", generation, partitions[m.topic])
}

func (m *member) lost(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	m.lock.Lock()
	defer m.lock.Unlock()
	_, generation := client.GroupMetadata()
	m.changed("lost", generation, partitions[m.topic])
}

func all(int32) bool { return true }

func main() {
	bootstrap, topic, group, protocol := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	m := &member{topic: topic, out: bufio.NewWriter(os.Stdout), processed: map[int32]kgo.EpochOffset{}}
	options := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(m.assigned), kgo.OnPartitionsRevoked(m.revoked), kgo.OnPartitionsLost(m.lost),
		kgo.FetchMaxWait(100 * time.Millisecond), kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.RequestRetries(200), kgo.RetryTimeout(15 * time.Second),
	}
	switch protocol {
	case "range":
		options = append(options, kgo.Balancers(kgo.RangeBalancer()))
	case "cooperative":
		options = append(options, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	case "consumer":
		options = append(options, kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer())
	default:
		panic("protocol " + protocol)
	}
	if protocol != "consumer" {
		options = append(options, kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		panic(err)
	}
	leave := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(leave)
	}()
	last := time.Now()
	for running := true; running; {
		select {
		case <-leave:
			running = false
			continue
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		fetches := client.PollRecords(ctx, 500)
		cancel()
		m.lock.Lock()
		fetches.EachError(func(_ string, _ int32, err error) {
			if err != context.DeadlineExceeded {
				m.tell("note", err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			fmt.Fprintf(m.out, "record %d %d %s\n", r.Partition, r.Offset, r.Value)
			m.processed[r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}
		})
		m.out.Flush()
		if time.Since(last) > 500*time.Millisecond {
			m.commit(context.Background(), client, all)
			last = time.Now()
		}
		m.lock.Unlock()
		client.AllowRebalance()
	}
	m.lock.Lock()
	m.commit(context.Background(), client, all)
	m.lock.Unlock()
	client.AllowRebalance()
	client.Close()
	m.lock.Lock()
	m.tell("left")
}
