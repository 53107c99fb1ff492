package properties

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// omitted are the cases that don't fit such a cluster. The first pattern that
// matches a case's name gives the reason.
func omitted() []omission {
	return []omission{
		{`\[Feature:LoadBalancer\]`, "needs a cloud's load balancers"},
		{`\[Feature:NetworkPolicy\]`, "weft does not enforce NetworkPolicy, as flannel doesn't"},
		{`(?i)SCTP`, "the kernel of the test machine has no SCTP"},
		{`\[Feature:Networking-(IPv4|IPv6|DNS)\]`, "needs the Internet"},
		{`\[Feature:(Networking-Performance|PerformanceDNS)\]`, "measures, which takes a machine of its own"},
		{`\[Provider:GCE\]`, "asks GCE's own servers"},
		{`\[Disruptive\]`, "restarts parts of Kubernetes that are no pods here; the properties above do that"},
		{
			`NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes`,
			"wants a node's own packets to pods of other nodes to have its address as their source; " +
				"it is that of its tunnel device, as with flannel",
		},
		{`\[Feature:OffByDefault\]`, "an API that is off by default"},
		{`evicted pods`, "has a pod evicted for its disk space, which these kubelets don't count: the disk is the machine's"},
		{`DNS configMap nameserver`, "reconfigures CoreDNS, whatever the network, and waits for minutes"},
		{`Topology Hints|in the same zone|multiple nodes when using|same zone when using`,
			"asks kube-proxy for endpoints of the same zone; the nodes here are in none"},
		{`\[Feature:KubeProxyNFAcct\]`, "counts packets by nfacct, which is for kube-proxy in iptables mode"},
	}
}

type omission struct{ pattern, why string }

// spec is a case as ginkgo reports it.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.TrimSpace(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "))
}

// atOnce is how many cases run beside each other: they wait most of the time.
const atOnce = 5

// SIGNetwork runs the cases of Kubernetes' own suite that fit, and lists them.
// focus is a regular expression of names. What they said is left in bin.
func (s *Suite) SIGNetwork(ctx context.Context, bin, focus string) error {
	var skip []string
	for _, o := range omitted() {
		skip = append(skip, o.pattern)
	}
	log, err := os.Create(filepath.Join(bin, "signetwork.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	report := filepath.Join(bin, "signetwork.json")
	cmd := exec.Command(filepath.Join(bin, "ginkgo"), "--procs="+strconv.Itoa(atOnce), "--timeout=60m", "--no-color",
		"--focus="+focus, "--skip="+strings.Join(skip, "|"), "--json-report="+filepath.Base(report), "--output-dir="+bin,
		filepath.Join(bin, "signetwork.test"), "--", "--provider=skeleton",
		"--num-nodes="+strconv.Itoa(len(s.Cluster.Nodes)),
		"--kubeconfig="+s.Cluster.Nodes[0].Path("/etc/kubernetes/admin.conf"),
		"--kubectl-path="+filepath.Join(bin, "kubectl"),
		"--delete-namespace-on-failure=true", "--disable-log-dump", "--allowed-not-ready-nodes=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr = bin, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := s.Cluster.Outside.Start(cmd)
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Signal(os.Kill), p.Err())
	}
	raw, err := os.ReadFile(report)
	if err != nil {
		return fmt.Errorf("sig-network: %w: %s", errors.Join(p.Err(), err), tail(log.Name()))
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(raw, &suites); err != nil {
		return err
	}
	var specs []spec
	for _, r := range suites {
		specs = append(specs, r.SpecReports...)
	}
	return list(s.Out, specs, regexp.MustCompile(focus))
}

func tail(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	const most = 4 << 10
	return string(raw[max(0, len(raw)-most):])
}

// list prints the cases that ran one by one, and the others by their reasons.
func list(out io.Writer, specs []spec, focus *regexp.Regexp) error {
	counts, skipped := map[string]int{}, map[string]int{}
	slices.SortFunc(specs, func(a, b spec) int { return cmp.Compare(a.name(), b.name()) })
	fmt.Fprintf(out, "\nKubernetes' own cases of sig-network\n")
	for _, c := range specs {
		if c.LeafNodeType == "It" && (c.State == "skipped" || c.State == "pending") {
			if why := cmp.Or(reason(c), firstLine(c.Failure.Message)); why != "" && focus.MatchString(c.name()) {
				counts["skipped"]++
				skipped[why]++
			}
			continue
		}
		if c.LeafNodeType != "It" && c.State != "failed" {
			continue
		}
		verdict, message := "passed", ""
		if c.State != "passed" {
			verdict, message = "failed", ": "+c.Failure.Message
		}
		counts[verdict]++
		took := c.RunTime.Round(100 * time.Millisecond)
		fmt.Fprintf(out, "%s  %s (%s)%s\n", verdict, cmp.Or(c.name(), c.LeafNodeType), took, message)
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Fprintf(out, "skipped  %d: %s\n", skipped[why], why)
	}
	fmt.Fprintf(out, "sig-network: %d passed, %d failed, %d skipped\n",
		counts["passed"], counts["failed"], counts["skipped"])
	if counts["failed"] > 0 {
		return fmt.Errorf("%d cases of sig-network fail", counts["failed"])
	}
	if counts["passed"] == 0 {
		return errors.New("no case of sig-network ran")
	}
	return nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// reason is why a case is left out, if it is.
func reason(c spec) string {
	for _, o := range omitted() {
		if regexp.MustCompile(o.pattern).MatchString(c.name()) {
			return o.why
		}
	}
	return ""
}
