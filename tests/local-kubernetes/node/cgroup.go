package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// Before the number of the process that has made them.
	cgroupPrefix = "dask-wasm-operator-node-"
)

// createCgroups makes a control group of this name in each hierarchy (version 1), for the pods of the node.
func createCgroups(name string) error {
	hierarchies, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		// The others are links to hierarchies of several controllers.
		if !hierarchy.IsDir() {
			continue
		}
		parent := filepath.Join(cgroupRoot, hierarchy.Name())
		group := filepath.Join(parent, name)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A new group has no processors and no memory, and takes no process until it has.
		for _, setting := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(parent, setting))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(group, setting), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("setting up %s: %w", group, err)
			}
		}
	}
	return nil
}

// removeCgroups removes the groups of this name with all below them, once their processes have ended.
func removeCgroups(name string) {
	for deadline := time.Now().Add(endTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		groups, err := filepath.Glob(filepath.Join(cgroupRoot, "*", name))
		if err != nil || len(groups) == 0 {
			return
		}
		for _, group := range groups {
			removeGroup(group)
		}
	}
}

func removeGroup(group string) {
	entries, err := os.ReadDir(group)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			removeGroup(filepath.Join(group, entry.Name()))
		}
	}
	// Refused while a process is in it.
	_ = os.Remove(group)
}

// removeAbandonedCgroups removes the groups of processes that are gone.
func removeAbandonedCgroups() {
	groups, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupPrefix+"*"))
	for _, group := range groups {
		maker := strings.TrimPrefix(filepath.Base(group), cgroupPrefix)
		// PID 1 of the node may be at work on it, which does the same.
		if _, err := os.Stat(filepath.Join("/proc", maker)); errors.Is(err, fs.ErrNotExist) {
			removeGroup(group)
		}
	}
}
