package linux

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// client is go-iptables over one program, whose file the key names. Asking it
// costs a run for its version, so it is kept. Only nf_tables is asked so: the
// library waits for the lock of legacy tables, and nothing of ours may wait.
func (k *Kernel) client(p program, ipv6 bool) (*iptables.IPTables, error) {
	path, err := k.programs.look(p.of(ipv6))
	if err != nil {
		return nil, err
	}
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if c, ok := k.programs.clients[path+"\x00"+resolved]; ok { // an alternative that is switched is another file
		return c, nil
	}
	family := iptables.ProtocolIPv4
	if ipv6 {
		family = iptables.ProtocolIPv6
	}
	var c *iptables.IPTables
	k.programs.runs++
	err = k.ns.do(func() (err error) {
		c, err = iptables.New(iptables.IPFamily(family), iptables.Path(path))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k.programs.clients[path+"\x00"+resolved] = c
	return c, nil
}

// listNFT gives the rules of one chain of iptables-nft's, as -S prints them.
func (k *Kernel) listNFT(p program, key ruleset.Key) (map[string][]string, error) {
	c, err := k.client(p, key.IPv6)
	if err != nil {
		return nil, err
	}
	var lines []string
	k.programs.runs++
	err = k.ns.do(func() (err error) {
		lines, err = c.List(key.Table, key.Chain)
		return err
	})
	if err != nil {
		said := ""
		if e := (*iptables.Error)(nil); errors.As(err, &e) {
			said = e.Error()
		}
		return nil, programError(p.of(key.IPv6), err, said)
	}
	return parseListing(strings.Join(lines, "\n")), nil
}
