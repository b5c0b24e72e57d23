//go:build ipvsvm

package ipvsadm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lvx-lb/lvx/testenv/transcript"
)

// TestKernelTranscript: ipvsadm on the kernel's IPVS says what the transcript
// says. The transcript as it would be recorded now is left in /out.
func TestKernelTranscript(t *testing.T) {
	useRecordedNames(t)
	text := readTestdata(t, "transcript.txt")
	var again strings.Builder
	comments := transcriptComments(text)
	for i, want := range transcript.Parse(text) {
		got := ask(want.Command, want.Stdin)
		again.WriteString(comments[i])
		again.WriteString(got.String())
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-transcript +ipvsadm):\n%s", want.Command, diff)
		}
	}
	if err := os.WriteFile(filepath.Join("/out", "transcript.txt"), []byte(again.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// useRecordedNames gives the guest the names that the transcript shows.
func useRecordedNames(t *testing.T) {
	t.Helper()
	for file, text := range map[string]string{
		"/etc/services": readTestdata(t, "services"),
		"/etc/hosts":    "127.0.0.1 localhost\n::1 ip6-localhost\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func ask(command, stdin string) transcript.Exchange {
	e := transcript.Exchange{Command: command, Stdin: stdin}
	var stdout, stderr bytes.Buffer
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		e.Status = -1
		if cmd.ProcessState != nil {
			e.Status = cmd.ProcessState.ExitCode()
		}
	}
	e.Stdout, e.Stderr = stdout.String(), stderr.String()
	return e
}

// transcriptComments are the comments before each command.
func transcriptComments(text string) map[int]string {
	comments, n := map[int]string{}, 0
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "$ "):
			n++
		case strings.HasPrefix(line, "#"):
			comments[n] += line
		}
	}
	return comments
}
