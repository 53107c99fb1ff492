package exchange_test

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/exchange"
	"github.com/weftnet/weft/pkg/netnstest"
)

func TestMain(m *testing.M) { os.Exit(netnstest.Run(m)) }

// address asks for one on lo, which is link 1 of each namespace; padding is an attribute
// that the kernel passes over.
func address(seq uint32, flags int, addr string, padding int) []byte {
	const unknown = 1000
	r := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|flags)
	r.Seq = seq
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	msg.Index, msg.Prefixlen = 1, 32
	r.AddData(msg)
	a := netip.MustParseAddr(addr).AsSlice()
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a))
	if padding > 0 {
		r.AddData(nl.NewRtAttr(unknown, make([]byte, padding)))
	}
	return r.Serialize()
}

// Many requests in one message are all done, and answered as they asked for.
func TestDo(t *testing.T) {
	n := netnstest.New(t)
	n.Do(func() {
		c, err := exchange.Open(unix.NETLINK_ROUTE)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for name, want := range map[string]int{"lo": 1, "nolink": 0} {
			if have, err := c.LinkIndex(name); have != want || err != nil {
				t.Errorf("index of %s: %d, %v", name, have, err)
			}
		}
		do := func(last uint32, requests ...[]byte) map[uint32]error {
			t.Helper()
			var all []byte
			for _, r := range requests {
				all = append(all, r...)
			}
			answers := map[uint32]error{}
			if err := c.Do(all, func(a exchange.Answer) bool {
				answers[a.Seq] = a.Err()
				return a.Seq == last
			}); err != nil {
				t.Fatal(err)
			}
			return answers
		}
		// The second is refused, and longer than the room for answers.
		have := do(3, address(1, 0, "192.0.2.1", 0), address(2, 0, "192.0.2.1", 20000),
			address(3, unix.NLM_F_ACK, "192.0.2.3", 0))
		if err, told := have[3]; len(have) != 2 || !errors.Is(have[2], unix.EEXIST) || !told || err != nil {
			t.Errorf("answers: %v", have)
		}
		// And so they are there, the one behind it, too.
		have = do(5, address(4, 0, "192.0.2.1", 0), address(5, unix.NLM_F_ACK, "192.0.2.3", 0))
		if !errors.Is(have[4], unix.EEXIST) || !errors.Is(have[5], unix.EEXIST) {
			t.Errorf("answers: %v", have)
		}
	})
}
