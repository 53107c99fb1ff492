package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cnifiles"
)

const (
	cniListName = "10-weft.conflist"

	cniInstallHelp = `install puts the CNI plugin and its configuration where the container runtime looks for
them, each in one step, and only what is not there already. Pods are attached from then on:
run it when weftd is ready (weftctl status). It can be run again at any time, also to upgrade
the plugin; running pods don't notice.

Without --conf the configuration is the one that weft is shipped with: point to point, with
host ports. --chain puts other plugins behind weft's, which must lie in --bin-dir themselves;
with portmap among them host ports are portmap's, and weft leaves them alone.

In Kubernetes the DaemonSet does this. A weftd with --cni-conf, --cni-conf-file and
--cni-bin-dir does too, and keeps the files there.`
)

func newCNICommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Install the CNI plugin, and tell what it did",
	}
	cmd.AddCommand(newCNIInstallCommand(g), newCNIListCommand(g), newCNICallsCommand(g))
	return cmd
}

// cniInstall is what cni install is told.
type cniInstall struct {
	binDir, confDir string
	plugin, conf    string
	chain           []string
}

func newCNIInstallCommand(g *globals) *cobra.Command {
	var i cniInstall
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put the CNI plugin and its configuration in place",
		Long:  cniInstallHelp,
		Example: "  weftctl cni install\n  weftctl cni install --chain bandwidth,tuning\n" +
			"  weftctl cni install --conf my.conflist --bin-dir /usr/libexec/cni",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := i.run()
			if err != nil {
				return err
			}
			return errors.Join(r.err, g.print(cmd.OutOrStdout(), r, r.print))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.binDir, "bin-dir", "/opt/cni/bin", "`directory` where the container runtime looks for plugins")
	flags.StringVar(&i.confDir, "conf-dir", "/etc/cni/net.d",
		"`directory` where it looks for configurations; ours becomes "+cniListName)
	flags.StringVar(&i.plugin, "plugin", "", "`file` with the plugin (default: weft, beside weftctl)")
	flags.StringVar(&i.conf, "conf", "", "`file` with the configuration list (default: the one that weft is shipped with)")
	flags.StringSliceVar(&i.chain, "chain", nil, "`plugins` to put behind weft's, as bandwidth,tuning")
	return cmd
}

// cniReport is what cni install did, in JSON too.
type cniReport struct {
	Plugin string   `json:"plugin"`
	Conf   string   `json:"conf"`
	Wrote  []string `json:"wrote"`
	Notes  []string `json:"notes"`
	err    error    // why pods can't be attached
}

func (i cniInstall) run() (cniReport, error) {
	if i.conf != "" && len(i.chain) > 0 {
		return cniReport{}, errors.New("--chain and --conf don't go together: write the chain into the file")
	}
	o := cnifiles.Options{
		BinDir: i.binDir, Plugin: i.plugin, Source: i.conf, Target: filepath.Join(i.confDir, cniListName),
	}
	if o.Plugin == "" {
		self, err := os.Executable()
		if err != nil {
			return cniReport{}, fmt.Errorf("find the CNI plugin beside weftctl: %w; name it with --plugin", err)
		}
		o.Plugin = filepath.Join(filepath.Dir(self), "weft")
	}
	if o.Source == "" {
		var err error
		if o.List, err = defaultList(i.chain); err != nil {
			return cniReport{}, err
		}
	}
	done := cnifiles.New(o).Install()
	r := cniReport{
		Plugin: filepath.Join(i.binDir, "weft"), Conf: o.Target,
		Wrote: append([]string{}, done.Wrote...), Notes: append([]string{}, done.Notes...), err: done.Err,
	}
	for _, name := range i.chain {
		if _, err := os.Stat(filepath.Join(i.binDir, name)); err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("the chained plugin %s is not in %s: no pod starts until it is "+
				"(Debian: containernetworking-plugins)", name, i.binDir))
		}
	}
	return r, nil
}

func (r cniReport) print(out io.Writer) error {
	for _, path := range r.Wrote {
		_, _ = fmt.Fprintf(out, "wrote  %s\n", path)
	}
	if r.err == nil && len(r.Wrote) == 0 {
		_, _ = fmt.Fprintf(out, "%s and %s are as they should be\n", r.Plugin, r.Conf)
	}
	for _, note := range r.Notes {
		_, _ = fmt.Fprintf(out, "note: %s\n", note)
	}
	return nil
}

// cniPlugin is one of a configuration list.
type cniPlugin struct {
	Type         string          `json:"type"`
	Mode         string          `json:"mode,omitempty"`
	Capabilities map[string]bool `json:"capabilities,omitempty"`
}

// defaultList is the list that weft is shipped with (dist/cni), and others
// behind it.
func defaultList(chain []string) ([]byte, error) {
	ours := cniPlugin{"weft", "ptp", map[string]bool{"portMappings": true, "ips": true, "mac": true}}
	list := struct {
		CNIVersion  string      `json:"cniVersion"`
		CNIVersions []string    `json:"cniVersions"`
		Name        string      `json:"name"`
		Plugins     []cniPlugin `json:"plugins"`
	}{"1.0.0", []string{"1.0.0", "1.1.0"}, "cbr0", []cniPlugin{ours}}
	if slices.Contains(chain, "portmap") {
		delete(ours.Capabilities, "portMappings") // both would serve the ports
	}
	for _, name := range chain {
		if name == "" || name == "weft" || name == "flannel" || filepath.Base(name) != name {
			return nil, fmt.Errorf("--chain: %q is not a plugin that goes behind weft: name programs in --bin-dir, "+
				"such as bandwidth,tuning", name)
		}
		p := cniPlugin{Type: name}
		// What the runtime hands over only if it is asked for.
		if capability := map[string]string{"portmap": "portMappings", "bandwidth": "bandwidth"}[name]; capability != "" {
			p.Capabilities = map[string]bool{capability: true}
		}
		list.Plugins = append(list.Plugins, p)
	}
	return json.MarshalIndent(list, "", "  ")
}

const cniListHelp = `list shows the pods' attachments by the records that the CNI plugin keeps of them.

STATE is attached; or "link gone" where the host's end of the pod's veth pair is not there,
which a DEL, the next GC or an ADD that finds no address cleans up; or "another boot" for
what the last boot has left, which the next ADD cleans up.`

func newCNIListCommand(g *globals) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the pods that the CNI plugin attached",
		Long:  cniListHelp,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			records, err := attachment.Dir(dir).Load()
			if err != nil && len(records) == 0 {
				return err
			}
			all := attachedOf(records, thisHost())
			return errors.Join(err, g.print(cmd.OutOrStdout(), all, func(out io.Writer) error {
				return printAttachments(out, all)
			}))
		},
	}
	attachmentsFlag(cmd, &dir)
	return cmd
}
