package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/doctor/gather"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd"
	"github.com/weftnet/weft/subnet/kube"
)

const doctorHelp = `doctor looks at the kernel, the host's files, weftd and (with --etcd-endpoints or
--kube-subnet-mgr) the store, sends a few packets to peers, and tells what is wrong, how that shows, and which command
mends it. It changes nothing, and works when weftd is dead. The exit status is 1 if a check
fails; a warning does not count.`

// errUnwell ends `weftctl doctor` with status 1, without a further word.
var errUnwell = errors.New("a check failed")

// doctorFlags are those of doctor as they are typed.
type doctorFlags struct {
	checks []string
	gather gather.Options
	store  storeFlags
	kube   kubeFlags
	all    bool
}

func newDoctorCommand(g *globals) *cobra.Command {
	var f doctorFlags
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find known failures of this node; exit status 1 if there are any",
		Long:  doctorHelp,
		Example: "  weftctl doctor\n  weftctl doctor --check mtu,checksum-offload\n" +
			"  weftctl doctor --etcd-endpoints http://192.168.77.1:2379",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, g) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.checks, "check", nil, "only these `checks` (see Documentation/doctor.md)")
	flags.BoolVar(&f.all, "all", false, "print the checks that are well, too")
	flags.IntVar(&f.gather.Peers, "peers", 8, "`number` of peers to send packets to; 0 for none")
	flags.DurationVar(&f.gather.Wait, "wait", 1600*time.Millisecond, "how long an answer of a peer may take")
	flags.StringVar(&f.gather.Root, "root", "/", "`directory` that the host's files are below")
	flags.StringVar(&f.gather.SysctlDir, "sysctl-dir", setting("SYSCTL_DIR", "/proc/sys"), "`directory` of sysctls")
	flags.StringVar(&f.gather.StateDir, "state-dir", setting("STATE_DIR", "/var/lib/weft"), "`directory` of weftd's state")
	flags.StringVar(&f.gather.SubnetFile, "subnet-file", setting("SUBNET_FILE", "/run/flannel/subnet.env"),
		"`file` that weftd wrote for the CNI plugin")
	flags.StringVar(&f.gather.Attachments, "attachments-dir", setting("ATTACHMENTS_DIR", attachment.DefaultDir),
		"`directory` of the CNI plugin's records")
	f.store.register(flags)
	f.kube.register(flags)
	return cmd
}

func (f *doctorFlags) run(cmd *cobra.Command, g *globals) error {
	if err := knownChecks(f.checks); err != nil {
		return err
	}
	o := f.gather
	o.Daemon = func(ctx context.Context) doctor.Daemon { return askHealth(ctx, g.socket) }
	switch {
	case f.kube.use:
		o.Leases = f.nodes
	case cmd.Flags().Changed("etcd-endpoints") || setting("ETCD_ENDPOINTS", "") != "":
		o.Leases, o.Clock = f.leases, clockOf(strings.Split(f.store.endpoints, ","))
		o.ClockTLS = f.store.secrets()
	}
	facts, err := gather.Facts(cmd.Context(), o)
	if err != nil {
		return err
	}
	results := doctor.Examine(facts, f.checks...)
	table := func(out io.Writer) error { return printDoctor(out, results, f.all) }
	err = g.print(cmd.OutOrStdout(), results, coloured(table, doctorColours()))
	if err == nil && doctor.Worst(results) == doctor.Fail {
		return errUnwell
	}
	return err
}

// knownChecks refuses a name that no check has.
func knownChecks(names []string) error {
	var known []string
	for _, c := range doctor.Checks() {
		known = append(known, c.Name)
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return fmt.Errorf("--check %q: there are %s", n, strings.Join(known, ", "))
		}
	}
	return nil
}

func (f *doctorFlags) leases(ctx context.Context, into *doctor.Store) (leases []subnet.Lease, err error) {
	start := time.Now()
	defer func() { into.Took = time.Since(start) }()
	err = f.store.with(ctx, func(ctx context.Context, s *etcd.Store) error {
		snapshot, err := s.Leases(ctx)
		leases = snapshot.Leases
		return err
	})
	return leases, err
}

// nodes asks Kubernetes. What we may do is asked first: without that there may
// be no list.
func (f *doctorFlags) nodes(ctx context.Context, into *doctor.Store) (leases []subnet.Lease, err error) {
	err = f.kube.with(ctx, f.store.timeout, func(ctx context.Context, r *kube.Reader) error {
		denied, err := r.Denied(ctx)
		for _, p := range denied {
			if p.Minor {
				into.Spared = append(into.Spared, p.Verb+" "+p.Resource)
			} else {
				into.Denied = append(into.Denied, p.Verb+" "+p.Resource)
			}
		}
		snapshot, members, errList := r.Leases(ctx)
		leases, into.Machines = snapshot.Leases, map[string]string{}
		for name, m := range members {
			into.Machines[name] = m.Machine
		}
		into.Skew, into.Took, into.Clocked = r.Clock()
		return errors.Join(err, errList)
	})
	return leases, err
}

// clockOf is the page of etcd that tells its time.
func clockOf(endpoints []string) string {
	for _, e := range endpoints {
		if u, err := url.Parse(e); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return u.JoinPath("health").String()
		}
	}
	return ""
}

func askHealth(ctx context.Context, socket string) doctor.Daemon {
	d := doctor.Daemon{Asked: true}
	var s network.Status
	if err := askDaemon(ctx, socket, "/v1/status", &s); err != nil {
		d.Err, d.Hangs = err.Error(), errors.Is(err, errHangs)
		return d
	}
	d.Ready, d.Reasons, d.Away = s.Ready, s.Reasons, s.Store.Away
	for entry, what := range s.Conflicts {
		d.Conflicts = append(d.Conflicts, entry+": "+what)
	}
	slices.Sort(d.Conflicts)
	return d
}

func printDoctor(out io.Writer, results []doctor.Result, all bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	count := map[doctor.Level]int{}
	for _, r := range results {
		count[r.Level]++
		if r.Level == doctor.OK && all {
			_, _ = fmt.Fprintf(w, "ok\t%s\t\n", r.Check)
		}
		for _, f := range r.Findings {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\n\t\tseen: %s\n\t\tmend: %s\n", strings.ToUpper(string(f.Level)), r.Check,
				f.Cause, f.Evidence, f.Mend)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d checks: %d ok, %d warn, %d fail\n", len(results), count[doctor.OK],
		count[doctor.Warn], count[doctor.Fail])
	return err
}
