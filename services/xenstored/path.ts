/** Path rules of the store (docs/misc/xenstore.txt; canonicalize() of xenstored). */
import { XENSTORE_ABS_PATH_MAX } from '#shared/abi/xs-wire.ts';

/** What is most often asked for; what is not of this form may still be a path. */
const ABSOLUTE = /^(?:\/[A-Za-z0-9\-_@]+)+$/;

/** `/local/domain/N`, where the relative paths of domain N start. */
export function domainPath(domid: number): string {
  return `/local/domain/${domid}`;
}

/**
 * The absolute form of a path, or undefined when it is not one: a character that is not allowed, an empty
 * component, a slash at the end, too long, or the name of a special watch where `allowSpecial` is false.
 */
export function canonicalPath(path: string, implicitPath: string, allowSpecial: boolean): string | undefined {
  if (ABSOLUTE.test(path)) return path.length < XENSTORE_ABS_PATH_MAX ? path : undefined;
  if (!/^[A-Za-z0-9\-/_@]*$/.test(path)) return undefined;
  if (path.startsWith('@') && !allowSpecial) return undefined;
  const name = path.startsWith('/') || path.startsWith('@') ? path : `${implicitPath}/${path}`;
  if ((name.endsWith('/') && name !== '/') || name.includes('//')) return undefined;
  return name.length < XENSTORE_ABS_PATH_MAX ? name : undefined;
}

/** The length that the path quota counts: what stands before a domain's own part is free. */
export function quotaLength(path: string): number {
  const prefix = /^\/local\/domain\/\d{1,5}\//.exec(path);
  return path.length - (prefix?.[0].length ?? 0);
}

/** The path above; `/` for those directly below it and for special names. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash <= 0 ? '/' : path.slice(0, slash);
}

export function basenameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

export function childOf(path: string, name: string): string {
  return path === '/' ? `/${name}` : `${path}/${name}`;
}

/** How many levels `path` lies below `top`: 0 for itself, -1 when it does not. */
export function levelsBelow(path: string, top: string): number {
  if (path === top) return 0;
  if (top !== '/' && !path.startsWith(`${top}/`)) return -1;
  if (top === '/' && !path.startsWith('/')) return -1;
  const below = path.slice(top === '/' ? 1 : top.length + 1);
  return below.split('/').length;
}
