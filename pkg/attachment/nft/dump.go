package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// attempts are how often is read what others write to meanwhile.
	attempts = 20
	pause    = time.Millisecond

	handleSize = 8
)

// settled reads until what was read is whole, with longer and longer rests, of 0.2 s in
// all. Where others never stop writing the last attempt counts, which may lack something.
func settled(read func() (whole bool, err error)) error {
	for n := 1; ; n++ {
		if whole, err := read(); err != nil || whole || n == attempts {
			return err
		}
		<-time.After(time.Duration(n) * pause)
	}
}

// dump asks for all of a kind in a table, in the network namespace of the calling
// thread; messages come without their header. The kernel answers in pieces, and goes on
// after the how manieth it was at: where a transaction came in between it may have passed
// some over. Of rules it says so (NLM_F_DUMP_INTR), of the last piece in the message that
// ends all (netlink_dump_done). Of elements it does not, but each message has the number
// of the last transaction; a set of one piece is followed by an empty one
// (nf_tables_dump_set). google/nftables v0.3.0 looks at none of these.
func dump(kind uint16, t *nftables.Table, query ...*nl.RtAttr) (messages [][]byte, whole bool, err error) {
	r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|int(kind), unix.NLM_F_DUMP)
	r.AddData(&nl.Nfgenmsg{NfgenFamily: byte(t.Family), Version: unix.NFNETLINK_V0})
	for _, q := range query {
		r.AddData(q)
	}
	messages, err = r.Execute(unix.NETLINK_NETFILTER, 0)
	whole = err == nil
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
		return nil, false, err
	}
	var first uint16
	for i, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			return nil, false, fmt.Errorf("a message of %d bytes", len(m))
		}
		transaction := binary.BigEndian.Uint16(m[2:]) // res_id
		if i == 0 {
			first = transaction
		}
		if kind == unix.NFT_MSG_GETSETELEM && len(messages) > 2 && transaction != first {
			whole = false
		}
		messages[i] = m[nl.SizeofNfgenmsg:]
	}
	return messages, whole, nil
}

// Rule is what is read of a rule: its place, and its comment.
type Rule struct {
	Chain, Comment string
	Handle         uint64
}

// Rules reads those of a table, in their order, in the network namespace of the calling
// thread. No table has none.
func Rules(t *nftables.Table) (out []Rule, err error) {
	err = settled(func() (bool, error) {
		messages, whole, err := dump(unix.NFT_MSG_GETRULE, t, nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.Name)))
		if err != nil {
			return false, err
		}
		out = make([]Rule, len(messages))
		for i, m := range messages {
			if out[i], err = ruleOf(m); err != nil {
				return false, err
			}
		}
		return whole, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of table %s: %w", t.Name, err)
	}
	return out, nil
}

// Comments are those of the rules, by chain.
func Comments(rules []Rule) map[string][]string {
	out := map[string][]string{}
	for _, r := range rules {
		out[r.Chain] = append(out[r.Chain], r.Comment)
	}
	return out
}

func ruleOf(message []byte) (r Rule, err error) {
	err = each(message, func(d *netlink.AttributeDecoder) error {
		switch d.Type() {
		case unix.NFTA_RULE_CHAIN:
			r.Chain = d.String()
		case unix.NFTA_RULE_HANDLE:
			if b := d.Bytes(); len(b) == handleSize {
				r.Handle = binary.BigEndian.Uint64(b)
			}
		case unix.NFTA_RULE_USERDATA:
			r.Comment, _ = userdata.GetString(d.Bytes(), userdata.TypeComment)
		}
		return nil
	})
	return r, err
}

// Elements reads those of a set, in the network namespace of the calling thread: keys
// and values as the kernel has them. No set has none. While the kernel makes a set's hash
// table larger or smaller, a dump may lack elements without a word; it has as many others
// twice then, and is made again.
func Elements(s *nftables.Set) ([]nftables.SetElement, error) {
	var out []nftables.SetElement
	err := settled(func() (bool, error) {
		messages, whole, err := dump(unix.NFT_MSG_GETSETELEM, s.Table,
			nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(s.Table.Name)),
			nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(s.Name)))
		if err != nil {
			return false, err
		}
		out = nil
		for _, m := range messages {
			if out, err = appendElements(out, m); err != nil {
				return false, err
			}
		}
		return whole && !repeats(out), nil
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list set %s of table %s: %w", s.Name, s.Table.Name, err)
	}
	return out, nil
}

func repeats(elements []nftables.SetElement) bool {
	seen := make(map[string]bool, len(elements))
	for _, e := range elements {
		seen[string(e.Key)] = true
	}
	return len(seen) < len(elements)
}

// appendElements decodes a message: lists of elements, of which each has a key, and in
// a map a value.
func appendElements(out []nftables.SetElement, message []byte) ([]nftables.SetElement, error) {
	err := each(message, func(list *netlink.AttributeDecoder) error {
		if list.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return nil
		}
		return each(list.Bytes(), func(elem *netlink.AttributeDecoder) error {
			var e nftables.SetElement
			err := each(elem.Bytes(), func(part *netlink.AttributeDecoder) (err error) {
				switch part.Type() {
				case unix.NFTA_SET_ELEM_KEY:
					e.Key, err = value(part.Bytes())
				case unix.NFTA_SET_ELEM_DATA:
					e.Val, err = value(part.Bytes())
				}
				return err
			})
			out = append(out, e)
			return err
		})
	})
	return out, err
}

func value(data []byte) (v []byte, err error) {
	err = each(data, func(d *netlink.AttributeDecoder) error {
		if d.Type() == unix.NFTA_DATA_VALUE {
			v = d.Bytes()
		}
		return nil
	})
	return v, err
}

// each visits the attributes.
func each(attributes []byte, visit func(*netlink.AttributeDecoder) error) error {
	d, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return err
	}
	for d.Next() {
		if err := visit(d); err != nil {
			return err
		}
	}
	return d.Err()
}
