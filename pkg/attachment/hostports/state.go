package hostports

import (
	"bytes"
	"fmt"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/nft"
)

// State is what the table holds.
type State struct {
	// Whole: the rules are all there as they were written, and no others.
	Whole bool
	have  map[string]map[string][]byte // set → key → value
}

// Read reads it, in the namespace of the calling thread. No table, or a kernel
// that has no nftables, holds nothing.
func Read() (State, error) {
	s := State{have: map[string]map[string][]byte{}}
	rules, err := nft.Rules(table())
	if err != nil {
		if nft.Absent(err) {
			err = nil
		}
		return s, err
	}
	s.Whole = true
	comments := nft.Comments(rules)
	for _, ch := range chains() {
		s.Whole = s.Whole && len(comments[ch.name]) == len(ch.rules) && nft.Of(comments[ch.name]) == form
	}
	for _, name := range setNames() {
		all, err := read(name)
		if err != nil {
			return s, err
		}
		s.have[name] = map[string][]byte{}
		for _, e := range all {
			s.have[name][string(e.Key)] = e.Val
		}
	}
	return s, nil
}

// Missing gives what is not in the kernel of the attachment's ports, in words.
func (s State) Missing(a attachment.Attachment) (out []string) {
	for _, w := range entries(a) {
		value, there := s.have[w.set][string(w.key)]
		switch {
		case there && bytes.Equal(value, w.value):
		case w.value == nil:
			out = append(out, fmt.Sprintf("%s is not in set %s of table inet %s", Link(a), w.set, Table))
		default:
			out = append(out, fmt.Sprintf("host port %s does not lead to the pod", describe(w.set, w.key)))
		}
	}
	return out
}

// Taken is the first of the attachment's ports that leads elsewhere, as a
// *TakenError; or nil.
func (s State) Taken(a attachment.Attachment) error {
	for _, w := range entries(a) {
		if value, there := s.have[w.set][string(w.key)]; there && !bytes.Equal(value, w.value) {
			return &TakenError{describe(w.set, w.key), target(w.set, value)}
		}
	}
	return nil
}

// ports counts those that lead to a pod.
func (s State) ports() (n int) {
	for _, name := range []string{setAddr4, setAny4, setAddr6, setAny6} {
		n += len(s.have[name])
	}
	return n
}

// Clear takes the table away, in the namespace of the calling thread; with dry
// nothing. It stays while ports lead to pods, unless forced: why says so. there
// tells whether it was there, and goes.
func Clear(dry, force bool) (there bool, why string, err error) {
	have, err := Read()
	if n := have.ports(); err == nil && n > 0 && !force {
		return true, fmt.Sprintf("%d ports of the host lead to pods: delete these first, or --force", n), nil
	}
	if err == nil {
		there, err = nft.Drop(table(), dry)
	}
	if err != nil {
		return false, "", fmt.Errorf("remove table %s: %w", Table, err)
	}
	return there, "", nil
}
