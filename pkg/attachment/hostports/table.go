package hostports

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/nft"
)

// TakenError says that a port of the host leads to somebody else.
type TakenError struct {
	Port   string // such as 8080/tcp
	Holder netip.Addr
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("host port %s leads to %s already", e.Port, e.Holder)
}

// Ports is the table in the network namespace of the calling thread.
type Ports struct {
	conn *nftables.Conn
	open []*nftables.Conn // of removals
}

// Open makes a Ports; it asks the kernel nothing. Each request has a socket of
// its own: after one that failed, answers may still be under way.
func Open() (*Ports, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &Ports{conn: c}, nil
}

// Close ends what removals left open. The kernel frees what is removed after a
// grace period of its own (RCU), and who closes a socket of nftables waits for
// that (nft_rcv_nl_event), also at the end of the process: 10 ms, which may pass
// while something else is done.
func (p *Ports) Close() {
	for _, c := range p.open {
		_ = c.CloseLasting() // all of it was answered
	}
	p.open = nil
}

// Add leads the attachment's ports to it. The table is made where it is
// missing. What leads to it already is no error; a port of another pod is a
// *TakenError, and then nothing is changed.
func (p *Ports) Add(a attachment.Attachment) error {
	want := entries(a)
	if len(want) == 0 {
		return nil
	}
	err := put(want)
	if errors.Is(err, unix.ENOENT) {
		err = p.installWith(want)
	}
	if err == nil {
		return nil
	}
	if other := taken(want); other != nil {
		return other
	}
	return fmt.Errorf("lead host ports to %s: %w", a.HostLink, err)
}

// put writes elements where the table is there.
func put(want []entry) error {
	b := nft.NewBatch(table())
	for _, name := range setNames() {
		b.AddElements(name, of(want, name))
	}
	return b.Commit()
}

// installWith makes the table, with elements.
func (p *Ports) installWith(want []entry) error {
	install(p.conn)
	all := sets()
	for _, name := range setNames() {
		if elements := of(want, name); len(elements) > 0 {
			if err := p.conn.SetAddElements(all[name], elements); err != nil {
				return err
			}
		}
	}
	return p.conn.Flush()
}

// taken finds the first port that leads elsewhere.
func taken(want []entry) error {
	for _, w := range want {
		have, err := read(w.set)
		if err != nil {
			return nil //nolint:nilerr // the refusal that led here says more
		}
		for _, h := range have {
			if bytes.Equal(h.Key, w.key) && !bytes.Equal(h.Val, w.value) {
				return &TakenError{describe(w.set, w.key), target(w.set, h.Val)}
			}
		}
	}
	return nil
}

// Install makes the table without a port, and writes its rules anew where it is
// there; ports stay.
func (p *Ports) Install() error {
	install(p.conn)
	if err := p.conn.Flush(); err != nil {
		return fmt.Errorf("write the rules of host ports: %w", err)
	}
	return nil
}

// Remove takes the attachment's ports away, unless they lead elsewhere by now.
// Nothing there is no error; removed tells whether there was anything.
func (p *Ports) Remove(a attachment.Attachment) (removed bool, err error) {
	mine := entries(a)
	var names []string
	for _, name := range setNames() {
		if slices.ContainsFunc(mine, func(e entry) bool { return e.set == name && !shared(e, a) }) {
			names = append(names, name)
		}
	}
	err = p.remove(names, func() (func(entry) bool, error) {
		return func(e entry) bool {
			gone := !shared(e, a) && slices.ContainsFunc(mine, e.equal)
			removed = removed || gone
			return gone
		}, nil
	})
	return removed, err
}

// Sweep takes away all ports that lead to none of the attachments that live
// gives. It is asked after the ports were read: whoever adds one meanwhile has
// written its record before, so nothing of theirs is taken.
func (p *Ports) Sweep(live func() ([]attachment.Attachment, error)) error {
	return p.remove(setNames(), func() (func(entry) bool, error) {
		all, err := live()
		var keep []entry
		for _, a := range all {
			keep = append(keep, entries(a)...)
		}
		return func(e entry) bool { return !slices.ContainsFunc(keep, e.equal) }, err
	})
}

// remove takes away what is gone. Another process may do the same at this
// moment, so it looks again when something is not there any more.
func (p *Ports) remove(names []string, decide func() (gone func(entry) bool, err error)) error {
	const tries = 3
	var err error
	for range tries {
		if err = p.tryRemove(names, decide); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("remove host ports: %w", err)
	}
	return nil
}

func (p *Ports) tryRemove(names []string, decide func() (gone func(entry) bool, err error)) error {
	have := map[string][]nftables.SetElement{}
	for _, name := range names {
		all, err := read(name)
		if err != nil {
			return err
		}
		if len(all) > 0 {
			have[name] = all
		}
	}
	if len(have) == 0 {
		return nil
	}
	gone, err := decide()
	if err != nil {
		return err
	}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	p.open = append(p.open, c)
	all := sets()
	for name, elements := range have {
		elements = slices.DeleteFunc(elements, func(h nftables.SetElement) bool { return !gone(entryOf(name, h)) })
		for i := range elements {
			elements[i].Val = nil // the kernel goes by the key
		}
		if len(elements) == 0 {
			continue
		}
		if err := c.SetDeleteElements(all[name], elements); err != nil {
			return err
		}
	}
	return c.Flush()
}

// read reads a map or set. No table is no elements.
func read(set string) ([]nftables.SetElement, error) {
	have, err := nft.Elements(sets()[set])
	if err != nil {
		return nil, fmt.Errorf("read the host ports: %w", err)
	}
	return have, nil
}

func of(all []entry, set string) []nftables.SetElement {
	var out []nftables.SetElement
	for _, e := range all {
		if e.set == set {
			out = append(out, nftables.SetElement{Key: e.key, Val: e.value})
		}
	}
	return out
}

func entryOf(set string, e nftables.SetElement) entry { return entry{set, e.Key, e.Val} }

func (e entry) equal(o entry) bool {
	return e.set == o.set && bytes.Equal(e.key, o.key) && bytes.Equal(e.value, o.value)
}
