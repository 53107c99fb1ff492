// Package logging sets up logrus the way an operator wants to read it: in
// colour on a terminal, with the journal's own time and priorities under
// systemd, with RFC 3339 time in a file or a pipe, or as JSON.
//
// It owns the format. What is logged, and at which level, is up to those who
// get the logger injected.
package logging

import (
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// Options say what is logged, and in which form.
type Options struct {
	Level string // error, warn, info or debug
	JSON  bool
	// klog's, for those who come from flannel. They can only add to what Level
	// says: a Verbosity of 4 or more is debug, less is nothing.
	Verbosity int
	Modules   Modules
	TraceAt   Place
}

// New makes a logger that writes to out. With Modules or TraceAt each line
// names its source.
func New(out io.Writer, o Options) (*logrus.Logger, error) {
	if !slices.Contains([]string{"error", "warn", "info", "debug"}, o.Level) {
		return nil, fmt.Errorf("log level %q: use error, warn, info or debug", o.Level)
	}
	level, err := logrus.ParseLevel(o.Level)
	if err != nil {
		return nil, fmt.Errorf("log level %q: %w", o.Level, err)
	}
	if o.Verbosity >= debugVerbosity {
		level = logrus.DebugLevel
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(level)
	log.SetFormatter(formatter(o.JSON, isJournal(out, os.Getenv("JOURNAL_STREAM"))))
	log.SetReportCaller(len(o.Modules) > 0 || o.TraceAt != Place{})
	if o.TraceAt != (Place{}) {
		log.AddHook(o.TraceAt)
	}
	if len(o.Modules) > 0 {
		log.SetFormatter(picky{log.Formatter, level, o.Modules})
		log.SetLevel(logrus.DebugLevel)
	}
	return log, nil
}

func formatter(json, journal bool) logrus.Formatter {
	switch {
	case json:
		return &logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano, CallerPrettyfier: short}
	case journal:
		return journalFormatter{&logrus.TextFormatter{
			DisableTimestamp: true, DisableColors: true, CallerPrettyfier: short,
		}}
	}
	// Colours: logrus looks for a terminal itself.
	return &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.RFC3339, CallerPrettyfier: short}
}

// isJournal tells whether out is the journal's end of a stream. systemd says
// which one that is in $JOURNAL_STREAM, as "device:inode"; comparing is how one
// tells it from a redirected stream (systemd.exec(5)).
func isJournal(out io.Writer, stream string) bool {
	f, ok := out.(*os.File)
	if !ok || stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// journalFormatter puts the priority in front of each line, where the journal
// takes it off (sd-daemon(3)): `journalctl -p warning` works.
type journalFormatter struct{ logrus.Formatter }

// Format implements logrus.Formatter.
func (f journalFormatter) Format(e *logrus.Entry) ([]byte, error) {
	text, err := f.Formatter.Format(e)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "<%d>", priority(e.Level)), text...), nil
}

// priority is the syslog level (RFC 5424, section 6.2.1).
func priority(l logrus.Level) int {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel:
		return 2
	case logrus.ErrorLevel:
		return 3
	case logrus.WarnLevel:
		return 4
	case logrus.InfoLevel:
		return 6
	}
	return 7
}
