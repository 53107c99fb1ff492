package cniplugin_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
)

// rounds is how many runs a long test makes: WEFT_CNI_ROUNDS, as `make soak`
// sets it.
func rounds(t testing.TB, short int) int {
	t.Helper()
	text := os.Getenv("WEFT_CNI_ROUNDS")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// crashers are nodes of each kind, whose ADDs and DELs are disturbed.
func crashers(t *testing.T) map[string]*node {
	ports := []map[string]any{mapping("tcp", 8080, 80, ""), mapping("udp", 8053, 53, "192.0.2.1")}
	return map[string]*node{
		"bridge":         newNode(t, ipv4, ipv6),
		"ptp with ports": newNode(t, ipv4, ipv6).with("mode", "ptp").withPorts(ports...),
		"flannel's form": newNode(t, ipv4).flannels(map[string]any{"isDefaultGateway": true}),
	}
}

// Killed before any of the calls that change something, an ADD leaves nothing
// that GC, DEL or the next ADD doesn't put right.
func TestKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	for name, n := range crashers(t) {
		t.Run(name, func(t *testing.T) {
			n.t = t
			p, _ := newPod(t, 1)
			n.add(p) // makes what stays: directories, the bridge, the table
			n.del(p)
			calls := n.disturbed("ADD", p, disturbance{}).calls
			dels := n.disturbed("DEL", p, disturbance{}).calls
			if calls < 10 || dels < 3 {
				t.Fatalf("ADD has %d calls, DEL %d: the trace is blind", calls, dels)
			}
			step := max(1, (calls+dels)/rounds(t, 24))
			for at := 1; at <= calls; at += step {
				n.crashADD(p, at, at/step)
			}
			for at := 1; at <= dels; at += step {
				n.crashDEL(p, at, at/step)
			}
			// The rest of a thousand.
			for i := calls + dels; i < rounds(t, 0); i++ {
				if rand.IntN(2) == 0 {
					n.crashADD(p, 1+rand.IntN(calls), i)
				} else {
					n.crashDEL(p, 1+rand.IntN(dels), i)
				}
			}
		})
	}
}

func (n *node) crashADD(p pod, at, way int) {
	n.t.Helper()
	// The number of calls varies a little, as the kernel is waited for.
	if o := n.disturbed("ADD", p, disturbance{at: at}); o.status > 0 {
		n.t.Fatalf("not killed at call %d: %d, %s", at, o.status, o.stdout)
	}
	switch way % 3 {
	case 0:
		n.collect()
	case 1:
		n.del(p)
	default:
		// The same attachment again; where it was ready, ADD wants a DEL.
		if status, _ := n.call("ADD", p); status != 0 {
			n.del(p)
			n.add(p)
		}
		if used := len(n.addresses()); used != len(n.subnets()) {
			n.t.Errorf("killed at call %d, then attached: %v are in use", at, n.addresses())
		}
		n.del(p)
	}
	n.clean(fmt.Sprintf("ADD killed at call %d", at))
}

func (n *node) crashDEL(p pod, at, way int) {
	n.t.Helper()
	n.add(p)
	if o := n.disturbed("DEL", p, disturbance{at: at}); o.status > 0 {
		n.t.Fatalf("not killed at call %d: %d, %s", at, o.status, o.stdout)
	}
	if way%2 == 0 {
		n.collect()
	} else {
		n.del(p)
	}
	n.clean(fmt.Sprintf("DEL killed at call %d", at))
}

// Whoever is given the address of a pod whose ADD or DEL was killed keeps all that he
// has by it when that pod's DEL comes, late. There is but one address, so he is given
// that one as soon as it is free.
func TestHeirKeepsAll(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]*node{
		"bridge": newNode(t, "10.42.1.0/30", "fd00:42:0:1::/126"),
		"ptp":    newNode(t, "10.42.1.0/30", "fd00:42:0:1::/126").with("mode", "ptp"),
	} {
		t.Run(name, func(t *testing.T) {
			n.t = t
			n = n.withPorts(mapping("tcp", 8080, 80, ""))
			heirs := n.withPorts(mapping("tcp", 8080, 80, ""), mapping("udp", 8053, 53, ""))
			dead, _ := newPod(t, 1)
			heir, _ := newPod(t, 2)
			inherited := 0
			for _, command := range []string{"ADD", "DEL"} {
				calls := n.disturbed("ADD", dead, disturbance{}).calls
				if dels := n.disturbed("DEL", dead, disturbance{}).calls; command == "DEL" {
					calls = dels
				}
				for at := 1; at <= calls; at += max(1, calls/rounds(t, calls/2)) {
					if command == "DEL" {
						n.add(dead)
					}
					n.disturbed(command, dead, disturbance{at: at})
					if status, out := heirs.call("ADD", heir); status == 0 {
						inherited++
						n.del(dead)
						if status, out := heirs.with("prevResult", json.RawMessage(out)).call("CHECK", heir); status != 0 {
							t.Errorf("%s killed at call %d: %s", command, at, out)
						}
					}
					n.del(dead)
					heirs.del(heir)
					n.clean(fmt.Sprintf("%s killed at call %d", command, at))
				}
			}
			if inherited == 0 {
				t.Error("nobody was given the address of the dead")
			}
		})
	}
}

// clean wants no trace of any pod.
func (n *node) clean(after string) {
	n.t.Helper()
	n.empty()
	n.wantStates()
	n.wantNoPorts("bridge")
	if n.t.Failed() {
		n.t.Fatalf("after %s", after)
	}
}

// A call that fails, any of them: ADD says so and leaves nothing, or does
// without it.
func TestEveryCallFails(t *testing.T) {
	t.Parallel()
	for name, n := range crashers(t) {
		t.Run(name, func(t *testing.T) {
			n.t, n.noisy = t, true
			p, _ := newPod(t, 1)
			n.add(p)
			n.del(p)
			calls := n.disturbed("ADD", p, disturbance{}).calls
			n.del(p)
			step := max(1, calls/rounds(t, 12))
			for at := 1; at <= calls; at += step {
				o := n.disturbed("ADD", p, disturbance{at, syscall.ENOSPC})
				if o.status != 0 && !o.lost {
					n.clean(fmt.Sprintf("call %d failed: %s", at, o.stdout))
				}
				n.del(p)
				n.clean(fmt.Sprintf("call %d failed, and DEL", at))
			}
		})
	}
}
