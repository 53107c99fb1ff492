// Command e2e-kube shows what weft promises on a real Kubernetes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/test/cluster/kube"
	"github.com/weftnet/weft/test/cluster/node"
	"github.com/weftnet/weft/test/cluster/properties"
	"github.com/weftnet/weft/test/cluster/sandbox"
)

func main() {
	if ours, err := node.Main(); ours {
		if err != nil {
			fmt.Fprintln(os.Stderr, os.Args[0]+":", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-kube:", err)
		os.Exit(1)
	}
}

type options struct {
	bin   string
	dir   string
	nodes int
	proxy string
	keep  bool

	manifest, weft, sig string
	only                *regexp.Regexp
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	f := flag.NewFlagSet("e2e-kube", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "bin/e2e-kube", "directory of the programs")
	f.StringVar(&o.dir, "dir", filepath.Join(os.TempDir(), "weft-e2e-kube"), "made for the run, and removed")
	f.IntVar(&o.nodes, "nodes", 3, "how many")
	f.StringVar(&o.proxy, "proxy", "nftables", "kube-proxy's mode")
	f.StringVar(&o.manifest, "manifest", "dist/kubernetes/weft.yml", "what is deployed")
	f.StringVar(&o.weft, "image", "bin/e2e-kube/weft-image.tar", "archive of the image that the manifest names")
	only := f.String("run", ".", "the properties to look at, a regular expression")
	f.StringVar(&o.sig, "sig", `\[sig-network\]`, "the cases of Kubernetes' own suite, a regular expression; empty: none")
	f.BoolVar(&o.keep, "keep", false, "wait for Ctrl-C at the end")
	if err := f.Parse(args); err != nil {
		return err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return err
	}
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	box, inside, err := sandbox.Inside()
	if err != nil {
		return err
	}
	if !inside {
		return sandbox.Run(ctx, o.dir)
	}
	return o.inside(ctx, box, out)
}

func (o options) inside(ctx context.Context, box sandbox.Box, out io.Writer) error {
	start := time.Now()
	images := filepath.Join(box.Dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	if err := writeImages(o.bin, images); err != nil {
		return err
	}
	if err := copyFile(o.weft, filepath.Join(images, "weft.tar")); err != nil {
		return err
	}
	manifest, err := o.ours()
	if err != nil {
		return err
	}
	c, err := kube.Start(ctx, kube.Options{Box: box, Bin: o.bin, Images: images, Nodes: o.nodes, Proxy: o.proxy})
	if err == nil {
		fmt.Fprintf(out, "%d nodes run after %s\n", o.nodes, time.Since(start).Round(100*time.Millisecond))
		s := &properties.Suite{Cluster: c, Manifest: manifest, Out: out, Only: o.only}
		if err = s.Prepare(ctx); err == nil {
			fmt.Fprintf(out, "all pods run after %s\n", time.Since(start).Round(100*time.Millisecond))
			err = s.Run(ctx)
			if o.sig != "" {
				err = errors.Join(err, s.SIGNetwork(ctx, o.bin, o.sig))
			}
		}
	}
	if resident, most, e := box.Group.Memory(); e == nil {
		fmt.Fprintf(out, "%s; %d MB resident, %d MB at most with the page cache\n",
			time.Since(start).Round(time.Second), resident>>20, most>>20)
	}
	if err != nil && o.keep {
		fmt.Fprintln(out, err)
	}
	if o.keep {
		fmt.Fprintln(out, "Ctrl-C ends it; a shell on the first node: nsenter -a -t $(pgrep -f ^weft-node-init | head -1)")
		<-ctx.Done()
	}
	return err
}

// ours is the manifest as shipped, but for the networks of this cluster, which
// is what its users edit too.
func (o options) ours() (string, error) {
	raw, err := os.ReadFile(o.manifest)
	if err != nil {
		return "", err
	}
	const shipped = `"Network": "10.244.0.0/16",`
	if strings.Count(string(raw), shipped) != 1 {
		return "", fmt.Errorf("%s: want %s in it once", o.manifest, shipped)
	}
	return strings.Replace(string(raw), shipped,
		fmt.Sprintf(`"Network": %q, "EnableIPv6": true, "IPv6Network": %q,`, kube.Pods4, kube.Pods6), 1), nil
}
