package cniplugin

import (
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment/nft"
)

// What the CNI project's portmap plugin makes in iptables' table nat, and since
// its v1.6 in nftables. A node whose configuration had it chained, and has not
// any more, has no one else to remove what it made for pods of before.
const (
	portmapTop    = "CNI-HOSTPORT-DNAT"
	portmapPrefix = "CNI-DN-"

	portmapTable = "cni_hostport" // of nftables, one in each family
)

// portmapChains are those of the table in which a container has rules, which
// have its id as their comment.
func portmapChains() []string { return []string{"hostports", "hostip_hostports", "masquerading"} }

// portmapChain is its chain for a container: as much of a hash as fits into
// the 28 bytes of a chain's name.
func portmapChain(network, containerID string) string {
	const length = 28
	return (portmapPrefix + fmt.Sprintf("%x", sha512.Sum512([]byte(network+containerID))))[:length]
}

// removePortmaps removes what portmap made for a container. Where there is
// nothing it costs a look by netlink. iptables-legacy has to be run to be asked,
// which is done for attachments that are not ours.
func (k *kernel) removePortmaps(network string, req request, ours bool) error {
	chain := portmapChain(network, req.containerID)
	programs := []string{"iptables-nft", "ip6tables-nft"}
	if !ours {
		programs = append(programs, "iptables-legacy", "ip6tables-legacy")
	}
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		if err := removePortmapRules(family, req.containerID); err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's rules of %s: %w", req.holder(), err))
		}
	}
	for _, program := range programs {
		if !portmapThere(program, chain) {
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			continue
		}
		if err := removePortmap(program, chain); err != nil {
			errs = append(errs, fmt.Errorf("remove portmap's chain %s of %s: %w", chain, req.holder(), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refused("remove what portmap left", err)
	}
	return nil
}

// removePortmapRules removes a container's rules from portmap's table of
// nftables. Another process may do so at this moment.
func removePortmapRules(family nftables.TableFamily, containerID string) error {
	const tries = 3
	var err error
	for range tries {
		if err = tryRemovePortmapRules(family, containerID); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	return err
}

func tryRemovePortmapRules(family nftables.TableFamily, containerID string) error {
	table := &nftables.Table{Name: portmapTable, Family: family}
	rules, err := nft.Rules(table)
	if err != nil {
		return nil //nolint:nilerr // no nftables, or no such table: nothing of portmap's
	}
	rules = slices.DeleteFunc(rules, func(r nft.Rule) bool {
		return r.Comment != containerID || !slices.Contains(portmapChains(), r.Chain)
	})
	if len(rules) == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return err
	}
	for _, r := range rules {
		chain := &nftables.Chain{Name: r.Chain, Table: table}
		if err := c.DelRule(&nftables.Rule{Table: table, Chain: chain, Handle: r.Handle}); err != nil {
			return err
		}
	}
	return c.Flush()
}

// portmapThere tells whether a chain of portmap's can be where a program looks.
// It must not be asked of iptables-legacy itself, which would make the table.
func portmapThere(program, chain string) bool {
	v6 := strings.HasPrefix(program, "ip6")
	if strings.HasSuffix(program, "-nft") {
		family := nftables.TableFamilyIPv4
		if v6 {
			family = nftables.TableFamilyIPv6
		}
		c, err := nftables.New()
		if err == nil {
			_, err = c.ListChain(&nftables.Table{Name: "nat", Family: family}, chain)
		}
		return err == nil
	}
	file := "/proc/thread-self/net/ip_tables_names"
	if v6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(names)), "nat")
}

// removePortmap removes a chain and the rules that lead to it, at once.
func removePortmap(program, chain string) error {
	rules, err := exec.Command(program, "-w", "-t", "nat", "-S").Output()
	if err != nil {
		return fmt.Errorf("%s -S: %w", program, err)
	}
	undo := portmapUndo(string(rules), chain)
	if undo == "" {
		return nil
	}
	restore := exec.Command(program+"-restore", "-w", "--noflush")
	restore.Stdin = strings.NewReader(undo)
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program+"-restore", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// portmapUndo turns a listing (iptables -S) into what removes the chain; "" is
// where there is none. Pure.
func portmapUndo(rules, chain string) string {
	var jumps []string
	there := false
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if line == "-N "+chain {
			there = true
		}
		if rest, ok := strings.CutPrefix(line, "-A "+portmapTop+" "); ok && strings.HasSuffix(rest, " -j "+chain) {
			jumps = append(jumps, "-D "+portmapTop+" "+rest)
		}
	}
	if !there {
		return ""
	}
	return "*nat\n" + strings.Join(append(jumps, "-F "+chain, "-X "+chain, "COMMIT"), "\n") + "\n"
}
