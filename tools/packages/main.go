// Command packages builds weft's .deb and .rpm, for each architecture: static
// binaries, units, man pages, completions. Two builds of one commit give the
// same bytes.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "packages: %v\n", err)
		os.Exit(1)
	}
}

// options are what to build, and from what.
type options struct {
	root    string   // of the repository
	out     string   // directory of the packages; binaries and pages are left below it
	version string   // stamped into the binaries, as git describes it
	arches  []string // as Go has them
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	var arches string
	flags := flag.NewFlagSet("packages", flag.ContinueOnError)
	flags.StringVar(&o.root, "root", "../..", "`directory` of the repository")
	flags.StringVar(&o.out, "out", "../../bin/packages", "`directory` for the packages")
	flags.StringVar(&o.version, "version", "unknown", "`version` to stamp")
	flags.StringVar(&arches, "arches", "amd64,arm64", "comma list of `architectures`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	o.arches = strings.Split(arches, ",")
	native, err := o.native(ctx)
	if err != nil {
		return err
	}
	if err := o.document(ctx, native); err != nil {
		return err
	}
	if err := o.materials(native); err != nil {
		return err
	}
	for _, arch := range o.arches {
		if err := o.compile(ctx, arch, o.binaries(arch)); err != nil {
			return err
		}
		if err := o.tellSizes(arch, stdout); err != nil {
			return err
		}
		for _, format := range []string{"deb", "rpm"} {
			path, err := o.pack(format, arch)
			if err != nil {
				return err
			}
			if err := tellDigest(path, stdout); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o options) binaries(arch string) string { return filepath.Join(o.out, "linux_"+arch) }
func (o options) pages() string               { return filepath.Join(o.out, "pages") }

// native builds for this machine, to ask the programs about themselves.
func (o options) native(ctx context.Context) (string, error) {
	dir := filepath.Join(o.out, "native")
	return dir, o.compile(ctx, "", dir)
}

// compile builds the binaries by `make build`, so that they are the same to the byte.
func (o options) compile(ctx context.Context, arch, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "make", "-C", o.root, "build", "VERSION="+o.version, "PROGRAMS="+dir)
	cmd.Env = os.Environ()
	if arch != "" {
		cmd.Env = append(cmd.Env, "GOOS=linux", "GOARCH="+arch)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build for %q: %w\n%s", arch, err, out)
	}
	return nil
}

// materials writes the bill of materials and the page of licences.
func (o options) materials(native string) error {
	native += string(filepath.Separator)
	all, err := modules(o.root, native+"weft", native+"weftctl", native+"weftd")
	if err != nil {
		return err
	}
	text, err := bill(packageVersion(o.version), all)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(o.pages(), "doc", "weft", "sbom.cdx.json"), text); err != nil {
		return err
	}
	return write(filepath.Join(o.root, "Documentation", "licences.md"), list(all))
}

// limits are what the programs may weigh, in bytes.
func limits() map[string]int64 {
	const mb = 1_000_000
	return map[string]int64{"weftd": 40 * mb, "weft": 6 * mb, "weftctl": 60 * mb}
}

func (o options) tellSizes(arch string, stdout io.Writer) error {
	for _, name := range []string{"weft", "weftctl", "weftd"} {
		info, err := os.Stat(filepath.Join(o.binaries(arch), name))
		if err != nil {
			return err
		}
		if info.Size() > limits()[name] {
			return fmt.Errorf("%s for %s has %d bytes, at most %d are allowed: "+
				"see what it imports with go tool nm -size -sort size",
				name, arch, info.Size(), limits()[name])
		}
		if _, err := fmt.Fprintf(stdout, "%-8s %-6s %5.1f MB\n", name, arch, float64(info.Size())/1e6); err != nil {
			return err
		}
	}
	return nil
}

func tellDigest(path string, stdout io.Writer) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%x  %s  %.1f MB\n",
		sha256.Sum256(content), filepath.Base(path), float64(len(content))/1e6)
	return err
}
