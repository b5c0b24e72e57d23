package main

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/warnings"
)

// What one binary leaves in the environment of the next.
const (
	envFallback = "LVX_FALLBACK_FD" // descriptor of the binary that is back in charge if this one does not serve
	envFailed   = "LVX_UPGRADE_FAILED"
)

// upgradeFailed is the kind of the warning that an upgrade did not happen.
const upgradeFailed = "upgrade-failed"

// takeOver replaces this process by another binary, which can go back to this
// one as long as it does not serve.
func takeOver(binary string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	defer self.Close() // if the exec fails
	if _, err := unix.FcntlInt(self.Fd(), unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	env := append(withoutOurs(os.Environ()), envFallback+"="+strconv.Itoa(int(self.Fd())))
	if err := syscall.Exec(binary, os.Args, env); err != nil {
		return fmt.Errorf("upgrade: exec of %s: %w", binary, err)
	}
	return nil
}

// goBack replaces this process by the binary that it took over from, because
// it does not come to serve. It returns if there is none.
func goBack(log *slog.Logger, why error) {
	fd, err := strconv.Atoi(os.Getenv(envFallback))
	if err != nil {
		return
	}
	log.Error("the new binary does not come up, the old one goes on", "err", why)
	env := append(withoutOurs(os.Environ()), envFailed+"="+oneLine(why.Error()))
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(fd), os.Args, env)
	log.Error("the old binary cannot be executed again", "err", err)
}

// forgetFallback lets go of the binary before: this one serves.
func forgetFallback() {
	if fd, err := strconv.Atoi(os.Getenv(envFallback)); err == nil {
		_ = unix.Close(fd)
	}
	_ = os.Unsetenv(envFallback)
}

// failedUpgrade is the warning that this binary is back after another one
// did not come up.
func failedUpgrade() (warnings.Warning, bool) {
	why := os.Getenv(envFailed)
	_ = os.Unsetenv(envFailed)
	return warnings.Warning{
		Kind: upgradeFailed, Subject: "lvx", Text: "the new binary did not come up, this one went on: " + why,
		Cure: "lvx upgrade another binary", Note: true,
	}, why != ""
}

// withoutOurs is an environment without what upgrades leave in it.
func withoutOurs(env []string) []string {
	var kept []string
	for _, e := range env {
		if !strings.HasPrefix(e, envFallback+"=") && !strings.HasPrefix(e, envFailed+"=") {
			kept = append(kept, e)
		}
	}
	return kept
}
