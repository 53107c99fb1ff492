// Package nft is what the tables of nftables have in common that both the CNI plugin
// and weftd write, guard and hostports.
//
// Their rules are known by comments, so that one that is lost, changed or put between
// is seen without a look at what the rules do. It owns the form of the comments. It
// refuses to know what is in a table.
package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Data is the user data of rule i of n, with a comment of mark in it; nft shows
// it. The mark has no space.
func Data(mark string, i, n int) []byte {
	return userdata.AppendString(nil, userdata.TypeComment, comment(mark, i, n))
}

func comment(mark string, i, n int) string { return fmt.Sprintf("%s %d/%d", mark, i+1, n) }

// Of is the mark that rules with these comments have. It is "" unless they are
// all there, in their order, and nothing else.
func Of(comments []string) string {
	mark := ""
	for i, text := range comments {
		if i == 0 {
			mark, _, _ = strings.Cut(text, " ")
		}
		if text != comment(mark, i, len(comments)) {
			return ""
		}
	}
	return mark
}

// Read reads the comments of a table's rules, by chain, in order, in the network
// namespace of the calling thread; family is one of unix.NFPROTO_. Of a rule
// nothing else is decoded. No table is none.
func Read(family byte, table string) (map[string][]string, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter: %w", err)
	}
	defer func() { _ = c.Close() }()
	query := []netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(table + "\x00")}}
	attrs, err := netlink.MarshalAttributes(query)
	if err != nil {
		return nil, err
	}
	rules, err := c.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules of table %s: %w", table, err)
	}
	out := map[string][]string{}
	const header = 4 // struct nfgenmsg
	for _, r := range rules {
		if len(r.Data) < header {
			continue
		}
		chain, text, err := decode(r.Data[header:])
		if err != nil {
			return nil, fmt.Errorf("list the rules of table %s: %w", table, err)
		}
		out[chain] = append(out[chain], text)
	}
	return out, nil
}

func decode(rule []byte) (chain, comment string, err error) {
	d, err := netlink.NewAttributeDecoder(rule)
	if err != nil {
		return "", "", err
	}
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = d.String()
		case unix.NFTA_RULE_USERDATA:
			comment, _ = userdata.GetString(d.Bytes(), userdata.TypeComment)
		}
	}
	return chain, comment, d.Err()
}
