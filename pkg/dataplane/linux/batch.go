package linux

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
)

// batch collects the messages of ops that follow each other, to be sent in one
// system call. It is also how a single op is written.
type batch struct {
	encoder
	entries []entry
	errs    []error // of the messages
}

// entry is one op of a batch.
type entry struct {
	op         dataplane.Op
	err        error      // why it has no messages
	index      int        // of its interface
	route      routeWrite // of a route: what was sent
	first, end int        // its messages
}

// maxBatch is how many messages go into one system call. More gain nothing
// (`make bench-netlink`), and the answers to all of them must fit into the queue
// of the socket.
const maxBatch = 128

// errNoAnswer: the kernel's answers to a batch were lost. Which of its messages
// took effect only a look can tell.
var errNoAnswer = errors.New("the kernel's answer was lost")

// flush sends the batch and fills errs. Only the last message asks to be
// acknowledged; the kernel answers to one that fails in any case, and answers in
// order. What is deleted already is a success.
func (b *batch) flush(k *Kernel) {
	b.errs = append(b.errs[:0], make([]error, len(b.types))...)
	last := len(b.types) - 1
	if last < 0 {
		return
	}
	flags := binary.NativeEndian.Uint16(b.buf[b.start+6:])
	binary.NativeEndian.PutUint16(b.buf[b.start+6:], flags|unix.NLM_F_ACK)
	err := k.exchange(&b.encoder, func(i int, m message) bool {
		if m.typ != unix.NLMSG_ERROR {
			return false
		}
		if b.errs[i] = m.failure(); deletion(b.types[i]) {
			b.errs[i] = ignoreGone(b.errs[i])
		}
		return i == last
	})
	if err == nil {
		return
	}
	for i := range b.errs {
		if b.errs[i] == nil {
			b.errs[i] = errors.Join(errNoAnswer, err)
		}
	}
}

func (b *batch) clear() {
	b.reset()
	clear(b.entries)
	b.entries = b.entries[:0]
}

// deletion tells a request to delete: each kind of object has four types of
// message, in the order new, del, get, set.
func deletion(typ uint16) bool { return (typ-unix.RTM_BASE)%4 == 1 }

// one sends what f encodes, by itself.
func (k *Kernel) one(f func(e *encoder)) error {
	var b batch
	f(&b.encoder)
	b.flush(k)
	return errors.Join(b.errs...)
}
