package docs

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// notThere is the section whose rows need no test, as there is nothing to try.
const notThere = "Not there yet"

// row is one of the contract's items on the page.
type row struct {
	line                        int
	section                     string // heading of the second level
	item, verdict, reason, test string
}

var code = regexp.MustCompile("`([^`]+)`")

// compatRows reads the page's tables, and tells which of their lines are none.
func compatRows(page string) (rows []row, faults []string) {
	section := ""
	for i, line := range strings.Split(page, "\n") {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			section = heading
		}
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| item |") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 4 {
			faults = append(faults, fmt.Sprintf("line %d: want four cells, have %d", i+1, len(cells)))
			continue
		}
		for c := range cells {
			cells[c] = strings.TrimSpace(cells[c])
		}
		rows = append(rows, row{i + 1, section, cells[0], cells[1], cells[2], cells[3]})
	}
	return rows, faults
}

// compatFaults is what is wrong with a page: rows that nothing shows, tests that
// are not there, and facts of the contract without a row.
func compatFaults(page string, facts map[string][]string, has func(pkg, test string) bool) []string {
	rows, faults := compatRows(page)
	said := map[string]map[string]bool{}
	for _, r := range rows {
		if said[r.section] == nil {
			said[r.section] = map[string]bool{}
		}
		for _, m := range code.FindAllStringSubmatch(r.item, -1) {
			if said[r.section][m[1]] {
				faults = append(faults, fmt.Sprintf("line %d: %s has a row already", r.line, m[1]))
			}
			said[r.section][m[1]] = true
		}
		for _, f := range rowFaults(r, has) {
			faults = append(faults, fmt.Sprintf("line %d: %s: %s", r.line, r.item, f))
		}
	}
	for _, section := range slices.Sorted(maps.Keys(facts)) {
		for _, name := range facts[section] {
			if !said[section][name] && !said[notThere][name] {
				faults = append(faults, fmt.Sprintf("%s: no row for `%s`", section, name))
			}
		}
	}
	return faults
}

func rowFaults(r row, has func(pkg, test string) bool) (faults []string) {
	tests := code.FindAllStringSubmatch(r.test, -1)
	switch {
	case r.section == notThere:
		if r.verdict != "not yet" || r.reason == "" || len(tests) > 0 {
			return []string{"in this section a row says `not yet` and what to do meanwhile, without a test"}
		}
		return nil
	case r.verdict == "better" || r.verdict == "different":
		if r.reason == "" {
			faults = append(faults, "doesn't say how, or why")
		}
	case r.verdict != "same":
		faults = append(faults, fmt.Sprintf("%q is neither same, better nor different", r.verdict))
	}
	if len(tests) == 0 {
		faults = append(faults, "no test shows it")
	}
	for _, m := range tests {
		pkg, test, ok := strings.Cut(m[1], ": ")
		switch {
		case !ok:
			faults = append(faults, fmt.Sprintf("%q is not of the form PACKAGE: TEST", m[1]))
		case !has(pkg, test):
			faults = append(faults, fmt.Sprintf("there is no test %q in %s", test, pkg))
		}
	}
	return faults
}

// contract is what the page must have a row for: the names that flannel v0.28.9
// has, by section of the page.
func contract() map[string][]string {
	return map[string][]string{
		"Flags": {
			"--etcd-endpoints", "--etcd-prefix", "--etcd-keyfile", "--etcd-certfile", "--etcd-cafile", "--etcd-username",
			"--etcd-password", "--kube-subnet-mgr", "--kube-api-url", "--kubeconfig-file", "--kube-annotation-prefix",
			"--net-config-path", "--set-node-network-unavailable", "--iface", "--iface-regex", "--iface-can-reach",
			"--public-ip", "--public-ipv6", "--subnet-file", "--subnet-lease-renew-margin", "--ip-masq",
			"--ip-masq-fully-random-disable", "--iptables-resync", "--iptables-forward-rules", "--ip-blackhole-route",
			"--healthz-ip", "--healthz-port", "--version", "--v", "--vmodule", "--log_backtrace_at",
		},
		"Environment": {
			"FLANNELD_*", "NOTIFY_SOCKET", "NODE_NAME", "POD_NAME", "POD_NAMESPACE", "EVENT_QUEUE_DEPTH",
			"CONT_WHEN_CACHE_NOT_READY", "WIREGUARD_KEY_FILE", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
			"ACCESS_KEY_ID", "ACCESS_KEY_SECRET",
		},
		"Network configuration": {
			"EnableIPv4", "EnableIPv6", "EnableNFTables", "Network", "IPv6Network", "SubnetLen", "SubnetMin", "SubnetMax",
			"IPv6SubnetLen", "IPv6SubnetMin", "IPv6SubnetMax", "Backend",
		},
		"Options of vxlan": {"VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting", "Name", "MacPrefix"},
		"Other backends": {
			"host-gw", "alloc", "udp", "ipip", "ipsec", "wireguard", "tencent-vpc", "extension",
		},
		"subnet.env": {
			"FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET", "FLANNEL_MTU",
			"FLANNEL_IPMASQ",
		},
		"mk-docker-opts.sh": {"-f", "-d", "-i", "-c", "-k", "-m"},
		"CNI plugin":        {"subnetFile", "dataDir", "delegate", "ipam", "runtimeConfig"},
	}
}

func TestEachItemOfFlannelsContractIsShown(t *testing.T) {
	page := read(t, "Documentation/flannel-compat.md")
	tests := index{t: t, packages: map[string]*suite{}}
	for _, fault := range compatFaults(page, contract(), tests.has) {
		t.Error(fault)
	}
	if rows, _ := compatRows(page); len(rows) < 100 {
		t.Errorf("only %d rows", len(rows))
	}
}

func TestAPageThatPromisesTooMuchIsFound(t *testing.T) {
	has := func(pkg, test string) bool { return pkg == "subnet" && (test == "TestOne" || test == "TestOne/a case") }
	facts := map[string][]string{"Keys": {"A"}}
	const head = "# Page\n\n## Keys\n\n| item | weft | how or why | test |\n|---|---|---|---|\n"
	const good = "| `A` | same | | `subnet: TestOne`, `subnet: TestOne/a case` |\n"
	for name, c := range map[string]struct {
		page string
		want []string
	}{
		"all is well":     {head + good + "| b | better | thus | `subnet: TestOne` |\n", nil},
		"not there, said": {head + "## Not there yet\n| `A` | not yet | use B | |\n", nil},
		"no test":         {head + "| `A` | same | | |\n", []string{"line 7: `A`: no test shows it"}},
		"words for a test": {
			head + "| `A` | same | | by hand |\n", []string{"line 7: `A`: no test shows it"},
		},
		"no such test": {
			head + "| `A` | same | | `subnet: TestTwo` |\n", []string{"line 7: `A`: there is no test \"TestTwo\" in subnet"},
		},
		"no such case": {
			head + "| `A` | same | | `subnet: TestOne/another` |\n",
			[]string{"line 7: `A`: there is no test \"TestOne/another\" in subnet"},
		},
		"no package": {
			head + "| `A` | same | | `TestOne` |\n", []string{"line 7: `A`: \"TestOne\" is not of the form PACKAGE: TEST"},
		},
		"different without a reason": {
			head + "| `A` | different | | `subnet: TestOne` |\n", []string{"line 7: `A`: doesn't say how, or why"},
		},
		"another word": {
			head + "| `A` | soon | | `subnet: TestOne` |\n",
			[]string{"line 7: `A`: \"soon\" is neither same, better nor different"},
		},
		"not there, outside of its section": {
			head + "| `A` | not yet | wait | |\n",
			[]string{"line 7: `A`: \"not yet\" is neither same, better nor different", "line 7: `A`: no test shows it"},
		},
		"there, in the other section": {
			head + "## Not there yet\n| `A` | same | | `subnet: TestOne` |\n",
			[]string{"line 8: `A`: in this section a row says `not yet` and what to do meanwhile, without a test"},
		},
		"a fact without a row": {head + "| b | same | | `subnet: TestOne` |\n", []string{"Keys: no row for `A`"}},
		"a fact in another section": {
			"## Other\n" + good, []string{"Keys: no row for `A`"},
		},
		"a fact twice":    {head + good + good, []string{"line 8: A has a row already"}},
		"a cell too many": {head + good + "| b | same | | | x |\n", []string{"line 8: want four cells, have 5"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, compatFaults(c.page, facts, has)); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}
