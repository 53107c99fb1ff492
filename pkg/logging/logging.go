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

// New makes a logger that writes to out. The level is error, warn, info or
// debug.
func New(out io.Writer, level string, json bool) (*logrus.Logger, error) {
	if !slices.Contains([]string{"error", "warn", "info", "debug"}, level) {
		return nil, fmt.Errorf("log level %q: use error, warn, info or debug", level)
	}
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level %q: %w", level, err)
	}
	log := logrus.New()
	log.SetOutput(out)
	log.SetLevel(parsed)
	log.SetFormatter(formatter(json, isJournal(out, os.Getenv("JOURNAL_STREAM"))))
	return log, nil
}

func formatter(json, journal bool) logrus.Formatter {
	switch {
	case json:
		return &logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano}
	case journal:
		return journalFormatter{&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true}}
	}
	// Colours: logrus looks for a terminal itself.
	return &logrus.TextFormatter{FullTimestamp: true, TimestampFormat: time.RFC3339}
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
