#version 330

const int MATERIALS = 32;
const int LIGHTS = 4;

uniform sampler2DArray textures;
uniform sampler2D shadow;
uniform mat4 shadow_projection;
uniform vec3 eye;
uniform vec3 forward;
uniform float label;
uniform vec4 colours[MATERIALS];  // sRGB; alpha 0 is not drawn
uniform vec4 looks[MATERIALS];    // layer, repeats per metre, glow, gloss
uniform vec3 light_places[LIGHTS];
uniform vec3 light_colours[LIGHTS];
uniform vec3 ambient_above;
uniform vec3 ambient_below;

in vec3 own_position;
in vec3 own_normal;
in vec3 place;
in vec3 normal;
in vec2 uv;
flat in uint material;

layout(location = 0) out vec4 radiance;  // linear RGB
layout(location = 1) out vec2 truth;     // metres along the optical axis, class

vec2 laid_over(vec3 at, vec3 facing) {
    vec3 size = abs(facing);
    if (size.y > size.x && size.y > size.z) return at.xz;
    return size.x > size.z ? at.zy : at.xy;
}

float lit_by_first(vec3 at, vec3 n) {
    vec4 seen = shadow_projection * vec4(at + 0.03 * n, 1.0);
    if (seen.w <= 0.0) return 1.0;
    vec3 spot = seen.xyz / seen.w * 0.5 + 0.5;
    if (any(lessThan(spot.xy, vec2(0.0))) || any(greaterThan(spot.xy, vec2(1.0)))) return 1.0;
    float lit = 0.0;
    vec2 step = 1.5 / vec2(textureSize(shadow, 0));
    for (int y = -1; y <= 1; y++)
        for (int x = -1; x <= 1; x++)
            lit += texture(shadow, spot.xy + vec2(x, y) * step).r > spot.z - 0.0008 ? 1.0 : 0.0;
    return lit / 9.0;
}

void main() {
    vec4 colour = colours[material];
    vec4 look = looks[material];
    if (colour.a == 0.0) discard;
    vec3 albedo = pow(colour.rgb, vec3(2.2));
    if (look.x >= 0.0) {
        vec2 at = look.y > 0.0 ? laid_over(own_position, own_normal) * look.y : uv;
        albedo *= pow(texture(textures, vec3(at, look.x)).rgb, vec3(2.2));
    }
    vec3 towards = normalize(eye - place);
    float size = length(normal);  // 0 on triangles without an area
    vec3 n = size > 1e-6 ? normal / size : towards;
    if (dot(n, towards) < 0.0) n = -n;

    vec3 light = mix(ambient_below, ambient_above, 0.5 + 0.5 * n.y);
    vec3 shine = vec3(0.0);
    for (int i = 0; i < LIGHTS; i++) {
        vec3 line = light_places[i] - place;
        float distance = length(line);
        vec3 l = line / max(distance, 1e-4);
        float reach = max(dot(n, l), 0.0) / (0.4 + distance * distance);
        if (i == 0) reach *= 0.15 + 0.85 * lit_by_first(place, n);
        light += light_colours[i] * reach;
        float mirror = pow(max(dot(n, normalize(l + towards)), 0.0), 40.0);
        shine += light_colours[i] * mirror * reach;
    }
    radiance = vec4(albedo * (light + look.z) + look.w * shine, 1.0);
    truth = vec2(dot(place - eye, forward), label);
}
