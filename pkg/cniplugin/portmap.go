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
)

// The chains of the CNI project's portmap plugin in iptables' table nat. A node
// whose configuration had it chained behind flannel's plugin, and has not any
// more, has no one else to remove what it made for pods of before.
const (
	portmapTop    = "CNI-HOSTPORT-DNAT"
	portmapPrefix = "CNI-DN-"
)

// portmapChain is its chain for a container: as much of a hash as fits into
// the 28 bytes of a chain's name.
func portmapChain(network, containerID string) string {
	const length = 28
	return (portmapPrefix + fmt.Sprintf("%x", sha512.Sum512([]byte(network+containerID))))[:length]
}

// removePortmaps removes what portmap made for a container. It is asked of
// attachments only that are not ours; where nothing of portmap's is, or no
// iptables, it costs a look.
func (k *kernel) removePortmaps(network string, req request) error {
	chain := portmapChain(network, req.containerID)
	var errs []error
	for _, program := range []string{"iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"} {
		if !portmapThere(program) {
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

// portmapThere tells whether portmap's chain can be where a program looks. It
// must not be asked of iptables-legacy itself, which would make the table.
func portmapThere(program string) bool {
	v6 := strings.HasPrefix(program, "ip6")
	if strings.HasSuffix(program, "-nft") {
		family := nftables.TableFamilyIPv4
		if v6 {
			family = nftables.TableFamilyIPv6
		}
		c, err := nftables.New()
		if err == nil {
			_, err = c.ListChain(&nftables.Table{Name: "nat", Family: family}, portmapTop)
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
